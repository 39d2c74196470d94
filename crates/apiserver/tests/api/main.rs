//! The API server against a real store, in process and over TLS. One file per theme.

mod crud;
mod harness;
mod messages;
mod new_kind;
mod patch;
mod tls;
mod watch;
