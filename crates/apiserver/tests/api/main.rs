//! The API server against a real store, in process and over TLS. One file per theme.

mod bad_input;
mod crud;
mod deletion;
mod harness;
mod limits;
mod lists;
mod logs;
mod messages;
mod new_kind;
mod patch;
mod quota;
mod tls;
mod watch;
