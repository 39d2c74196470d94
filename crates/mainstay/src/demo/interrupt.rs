//! Ctrl-C, and its like from a program that runs the demo or a terminal that closes.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Interruptions, from when this is made.
pub(super) struct Interrupts {
    signals: [Signal; 3],
    count: u32,
}

impl Interrupts {
    pub(super) fn new() -> std::io::Result<Self> {
        let signals =
            [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
        Ok(Self { signals, count: 0 })
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        self.count += 1;
    }

    /// The second of all.
    pub(super) async fn second(&mut self) {
        while self.count < 2 {
            self.next().await;
        }
    }

    /// Whether there was one.
    pub(super) fn any(&self) -> bool {
        self.count > 0
    }
}
