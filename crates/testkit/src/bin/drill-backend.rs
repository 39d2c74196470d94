//! `drill-backend DIR [ADDRESS]`: see `mainstay_testkit::drill_backend`. Runs until its standard input is closed.

use anyhow::Context as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().context("usage: drill-backend DIR [ADDRESS]")?;
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listen = listen.parse().with_context(|| format!("{listen} is not an address with a port"))?;
    mainstay_testkit::drill_backend::run(dir.as_ref(), listen).await?;
    Ok(())
}
