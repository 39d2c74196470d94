//! The session's heartbeat row: that this run lives, and how far user messages were handed to the agent process.

use std::time::Duration;

use http::Method;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::api::{Api, Pace};

/// Time between two heartbeats.
const INTERVAL: Duration = Duration::from_secs(10);

/// How far user messages have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Position {
    /// The highest message about to be written to the agent process.
    #[serde(default)]
    pub(crate) offered: u64,
    /// The highest message that was written.
    #[serde(default)]
    pub(crate) delivered: u64,
}

/// Which run of which Pod speaks.
#[derive(Debug, Clone)]
pub(crate) struct Speaker {
    /// The run's number.
    pub(crate) run: u64,
    /// The Pod's uid.
    pub(crate) pod_uid: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Heartbeat<'a> {
    run: u64,
    #[serde(rename = "podUID")]
    pod_uid: &'a str,
    offered: u64,
    delivered: u64,
    busy: bool,
    cursor_only: bool,
}

/// Writes the row until the API has taken it.
pub(crate) async fn put(api: &mut Api, speaker: &Speaker, position: Position, busy: bool, cursor_only: bool) {
    let (run, pod_uid) = (speaker.run, speaker.pod_uid.as_str());
    let Position { offered, delivered } = position;
    let heartbeat = Heartbeat { run, pod_uid, offered, delivered, busy, cursor_only };
    // Numbers and plain strings always encode.
    let Ok(body) = serde_json::to_vec(&heartbeat) else { return };
    let body = bytes::Bytes::from(body);
    let mut pace = Pace::new();
    while api.call::<IgnoredAny>(Method::PUT, "/heartbeat", body.clone()).await.is_err() {
        pace.pause().await;
    }
}

/// Reads where the previous run ended.
pub(crate) async fn get(api: &mut Api) -> Position {
    let mut pace = Pace::new();
    loop {
        match api.call(Method::GET, "/heartbeat", bytes::Bytes::new()).await {
            Ok(position) => return position,
            Err(_) => pace.pause().await,
        }
    }
}

/// Sends heartbeats: at once, every [`INTERVAL`], and when the agent process starts or ends a turn.
pub(crate) async fn beat(
    mut api: Api,
    speaker: Speaker,
    position: watch::Receiver<Position>,
    mut in_turn: watch::Receiver<bool>,
) {
    loop {
        let (now, busy) = (*position.borrow(), *in_turn.borrow_and_update());
        put(&mut api, &speaker, now, busy, false).await;
        let turned = tokio::time::timeout(INTERVAL, in_turn.changed()).await;
        if matches!(turned, Ok(Err(_))) {
            return;
        }
    }
}
