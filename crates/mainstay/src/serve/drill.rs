//! What a server has only when it is drilled: the handlers over drill-backend, and one that is poison.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_cloud::{Backends, handlers, limits};
use mainstay_runtime::Failure;
use mainstay_runtime::client::{Http, Trust};
use mainstay_runtime::operation::{At, Handler, Progress, Step, Work};
use mainstay_runtime::resilience::gates::Gates;
use serde::Deserialize;

/// What poison takes at a time, in bytes.
const GULP: usize = 64 * 1024 * 1024;

/// The handlers of a server that is drilled with the drill-backend at `url`.
///
/// # Errors
/// When its client cannot be made.
pub(super) fn handlers(url: &str, gates: &Arc<Gates>) -> anyhow::Result<Vec<Arc<dyn Handler>>> {
    let nobody = Trust::Only(Arc::new(rustls::RootCertStore::empty()));
    let http = Http::new(nobody, limits::MOST_ANSWER).context("make drill-backend's client")?;
    let backends = Backends::drill(&http, url, gates).context("use drill-backend")?;
    let poison: Arc<dyn Handler> = Arc::new(Poison);
    Ok(handlers::all(backends).into_iter().chain([poison]).collect())
}

/// `drill-poison`: does harm to whoever carries it out.
#[derive(Debug)]
struct Poison;

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Harm {
    /// Panics.
    Panic,
    /// Takes memory without bound.
    Memory,
    /// Holds its worker for as long as it may.
    Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    harm: Harm,
    /// How long time is held, in milliseconds; without it, for as long as the attempt may take.
    millis: Option<u64>,
}

impl Handler for Poison {
    fn name(&self) -> &'static str {
        "drill-poison"
    }

    fn steps(&self, work: &Work) -> Result<Vec<Box<dyn Step>>, Failure> {
        Ok(vec![Box::new(work.payload::<Payload>()?)])
    }
}

impl Step for Payload {
    fn name(&self) -> &'static str {
        "harm"
    }

    fn observe<'a>(&'a self, _: &'a At) -> BoxFuture<'a, Result<Option<Progress>, Failure>> {
        std::future::ready(Ok(None)).boxed()
    }

    #[expect(clippy::panic, reason = "that is what it is for")]
    fn act<'a>(&'a self, at: &'a At) -> BoxFuture<'a, Result<Progress, Failure>> {
        async move {
            let mut taken = Vec::new();
            match self.harm {
                Harm::Panic => panic!("as told"),
                Harm::Time => {
                    let until = self.millis.map(|millis| tokio::time::Instant::now() + Duration::from_millis(millis));
                    let until = until.map_or(at.deadline, |until| until.min(at.deadline));
                    tokio::time::timeout_at(until, at.cancelled.cancelled()).await.ok();
                    Ok(Progress::DONE)
                }
                Harm::Memory => loop {
                    // Not touched: it is refused before it is had, and the server dies of that at once.
                    taken.push(std::hint::black_box(vec![0_u8; GULP]));
                    // Others are carried out meanwhile.
                    tokio::task::yield_now().await;
                },
            }
        }
        .boxed()
    }
}
