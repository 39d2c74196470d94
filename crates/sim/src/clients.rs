//! What runs on a replica beside the workers: one who leads, for each lease, and a client.

use std::sync::Arc;

use mainstay_runtime::lease::Leases;
use mainstay_store::{Fence, Key, Object, Revision, Store, StoreError, Write};
use tokio::time::sleep;

use crate::dice::Dice;
use crate::history::{MARKS, note};
use crate::host::Shared;
use crate::orders::{draft, order, value};

/// The leases that there are. Who has the first orders operations.
pub(crate) const LEASES: [&str; 3] = ["orders", "second", "third"];

/// Leads in every term that it gets.
pub(crate) async fn lead(
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    (me, lease): (Arc<str>, &'static str),
    mut dice: Dice,
) {
    let leases: Arc<dyn Leases> = store.leases();
    loop {
        let Ok(held) = leases.acquire(lease).await else { return };
        shared.history.led(&me, lease, held.term);
        shared.terms.begin(&me, &held);
        let fence = Fence { lease: lease.into(), term: held.term };
        let mut number = 0;
        while !held.lost.is_cancelled() {
            number += 1;
            match pass(&shared, &*store, &fence, number).await {
                Ok(object) => shared.history.made(&me, &object),
                Err(StoreError::Deposed(_)) => break,
                Err(error) => shared.history.note(&me, &format!("could not write as {fence}: {error}")),
            }
            sleep(dice.millis(50..400)).await;
        }
        shared.history.note(&me, &format!("{fence} is over"));
        shared.terms.end(held.term);
        held.release();
        sleep(dice.millis(10..200)).await;
    }
}

/// Orders the next operation, and leaves a mark.
async fn pass(shared: &Shared, store: &dyn Store, fence: &Fence, number: u64) -> Result<Arc<Object>, StoreError> {
    if *fence.lease == *LEASES[0] {
        let key = Key::new("/counts", "a", "ordered");
        let counted = store.get(&key).await?;
        let ordered = counted.as_ref().and_then(|object| value(object).parse().ok()).unwrap_or(0);
        if ordered < shared.goal {
            match store.write_under(fence.clone(), order(ordered)).await {
                Ok(_) | Err(StoreError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
            let draft = draft("count", &(ordered + 1).to_string());
            let write = match counted {
                Some(object) => Write::Update { key, draft, expected: object.revision },
                None => Write::Create { key, draft, requires: None },
            };
            store.write_under(fence.clone(), write).await?;
        }
    }
    let key = Key::new(MARKS, "a", format!("{}-{}-{number}", fence.lease, fence.term));
    let write = Write::Create { key, draft: draft("mark", &fence.to_string()), requires: None };
    store.write_under(fence.clone(), write).await
}

/// Writes notes, each value once, for as long as it is to.
pub(crate) async fn client(shared: Arc<Shared>, store: Arc<dyn Store>, me: Arc<str>, mut dice: Dice) {
    for number in 0_u64.. {
        sleep(dice.millis(20..300)).await;
        if shared.is_over() {
            return;
        }
        let (key, said) = (note(dice.within(0..8)), format!("{me}-{number}"));
        let Ok(current) = store.get(&key).await else { continue };
        let draft = draft("note", &said);
        let write = match current.as_ref().map(|object| object.revision) {
            None => Write::Create { key, draft, requires: None },
            Some(expected) if dice.percent(30) => Write::Delete { key, draft, expected },
            Some(expected) => Write::Update { key, draft, expected },
        };
        match store.write(write).await {
            Ok(object) => {
                shared.history.made(&me, &object);
                reads_it(&shared, &*store, &me, &object).await;
            }
            Err(error @ (StoreError::Exists(_) | StoreError::Missing | StoreError::Conflict(_))) => {
                shared.history.refused(&me, &said, &error.to_string());
            }
            Err(error) => shared.history.note(&me, &format!("does not know of {said}: {error}")),
        }
        if number % 50 == 49 && dice.percent(30) {
            let floor = Revision(store.revision().0.saturating_sub(60));
            shared.history.note(&me, &format!("compacts to {floor}: {:?}", store.compact(floor).await.is_ok()));
        }
    }
}

/// Who was told reads it, or what came after.
async fn reads_it(shared: &Shared, store: &dyn Store, me: &str, object: &Object) {
    if let Ok(read) = store.get(&object.key).await
        && (store.revision() < object.revision || read.is_some_and(|read| read.revision < object.revision))
    {
        shared.fail("who is told of its write reads it", format!("{me}: {} at {}", object.key, object.revision));
    }
}
