//! Who listens, unless nobody is to.

use std::net::SocketAddr;
use std::time::Duration;

use mainstay_runtime::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::carry::{Connection, reset};
use super::{Counts, Direction, Fault, Weather};

/// The server is on this host.
const CONNECT: Duration = Duration::from_secs(10);

/// Accepts connections, and has them carried.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) listen: SocketAddr,
    pub(super) weather: watch::Receiver<Weather>,
    pub(super) listens: watch::Sender<bool>,
    pub(super) counts: watch::Sender<Counts>,
    pub(super) tasks: Tasks,
}

impl Acceptor {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        // Every wait in here may be given up at any time.
        stop.run_until_cancelled(async {
            while self.listen_while_allowed().await.is_ok() {
                let allowed = self.weather.wait_for(|weather| weather.fault != Fault::Refuse).await;
                if allowed.is_err() {
                    return;
                }
            }
        })
        .await;
    }

    /// Returns when it is to listen no more, and does not.
    async fn listen_while_allowed(&mut self) -> std::io::Result<()> {
        let listener = TcpListener::bind(self.listen).await?;
        self.listens.send_replace(true);
        let mut weather = self.weather.clone();
        let refuse = weather.wait_for(|weather| weather.fault == Fault::Refuse);
        tokio::pin!(refuse);
        loop {
            let client = tokio::select! {
                biased;
                _ = &mut refuse => break,
                accepted = listener.accept() => accepted?.0,
            };
            self.counts.send_modify(|counts| {
                counts.accepted += 1;
                counts.open += 1;
            });
            let open = Open(self.counts.clone());
            let (weather, stop) = (self.weather.clone(), self.tasks.stopping());
            self.tasks.spawn("connection of a proxy", async move {
                let open = open;
                stop.run_until_cancelled(connect(client, weather, &open.0)).await;
            });
        }
        drop(listener);
        self.listens.send_replace(false);
        Ok(())
    }
}

/// A connection that is counted as open.
struct Open(watch::Sender<Counts>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|counts| counts.open -= 1);
    }
}

/// Carries one connection to its end.
async fn connect(client: TcpStream, mut weather: watch::Receiver<Weather>, counts: &watch::Sender<Counts>) {
    let cuts = weather.borrow().cuts;
    // Who is behind the fault is not to learn of it either.
    let reachable = |weather: &Weather| weather.cuts != cuts || !weather.fault.holds_back(Direction::ToServer);
    let Ok(now) = weather.wait_for(reachable).await.map(|weather| *weather) else { return };
    if now.cuts != cuts || now.fault == Fault::Reset {
        return reset(&client);
    }
    #[expect(clippy::disallowed_methods, reason = "this is the network, whose calls are others'; and it is bounded")]
    let connecting = TcpStream::connect(now.server);
    if let Ok(Ok(server)) = tokio::time::timeout(CONNECT, connecting).await {
        return Connection { client, server, weather, counts, cuts }.carry().await;
    }
    // That nobody is there is an answer, too.
    let answers = |weather: &Weather| weather.cuts != cuts || !weather.fault.holds_back(Direction::ToClient);
    if weather.wait_for(answers).await.is_ok() {
        reset(&client);
    }
}
