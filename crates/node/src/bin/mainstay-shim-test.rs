//! A binary with nothing but the hidden verb, so that this crate's tests need not build the whole of `mainstay`.

use std::process::ExitCode;

use mainstay_node::shim;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() != Some(shim::client::VERB) {
        return ExitCode::from(2);
    }
    ExitCode::from(u8::try_from(shim::main()).unwrap_or(1))
}
