//! The one door: Kubernetes' API conventions over HTTP, for every kind of the registry.
//!
//! Start with [`server`] (what a request goes through) and [`route`] (which code answers it); then [`verbs`], one file
//! each. What a kind does differently from all others is in [`habits`]. Nothing here runs a control loop: whatever
//! must happen later is a controller's, through this same API.
//!
//! `metadata.managedFields` are not kept: what a client sends of them is dropped.

mod access;
mod activity;
mod admission;
pub mod audit;
pub mod auth;
pub mod body;
mod catalog;
mod config;
mod content;
pub mod crypt;
pub mod discovery;
mod documents;
mod form;
mod gate;
mod habits;
mod health;
mod holder;
pub mod inprocess;
mod keyring;
pub mod keys;
mod leadership;
mod leash;
mod leftovers;
pub mod listener;
pub mod metrics;
pub mod node;
pub mod nodelink;
mod object;
pub mod openapi;
pub mod operation;
pub mod overview;
pub mod presence;
mod quota;
pub mod rbac;
mod request;
mod reseal;
mod respond;
mod route;
pub mod selector;
mod server;
pub mod status;
mod sub;
pub mod table;
pub mod tls;
pub mod token;
mod verbs;

pub use access::Access;
pub use auth::Identity;
pub use body::Body;
pub use catalog::CatalogError;
pub use config::Limits;
pub use health::Part;
pub use server::{ApiServer, Caller, Config};
