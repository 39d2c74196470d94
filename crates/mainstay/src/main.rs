//! `mainstay`: the control plane and its command line, in one binary.

mod address;
mod archive;
mod cli;
mod connect;
mod demo;
mod further;
mod manifest;
mod output;
mod serve;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: a shim stays single-threaded and small for as long as its sandbox lives.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "__shim") {
        return ExitCode::from(u8::try_from(mainstay_node::shim::main()).unwrap_or(1));
    }
    if let Err(error) = mainstay_runtime::fault::arm_from_env() {
        anstream::eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    // Two TLS providers in one process make rustls panic at the first connection; this names ours.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    cli::run(cli::parse())
}
