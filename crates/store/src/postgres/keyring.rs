//! The ring of keys in its table.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::PostgresStore;
use super::link::Parameters;
use super::shared::REVISION;
use crate::error::StoreError;
use crate::keyring::{KeyRow, Keyring, MAX_WRAPPED, Ring, RingChange};
use crate::{at_most, refuse};

impl Keyring for PostgresStore {
    fn ring(&self) -> BoxFuture<'_, Result<Ring, StoreError>> {
        let shared = Arc::clone(&self.shared);
        self.on_store(async move {
            let sql = "SELECT (SELECT value FROM mainstay.counters WHERE name = 'store/keyring'), k.name, k.version, k.wrapped,
                k.created FROM mainstay.log l LEFT JOIN mainstay.keyring k ON true ORDER BY k.name, k.version";
            let rows = shared.readers.query(sql, &[]).await?;
            let generation: Option<i64> = rows.first().and_then(|row| row.get(0));
            let there = rows.iter().filter(|row| row.get::<_, Option<&str>>(1).is_some());
            let row = |row: &tokio_postgres::Row| KeyRow {
                name: row.get::<_, &str>(1).into(),
                version: row.get::<_, i64>(2).cast_unsigned(),
                wrapped: Bytes::copy_from_slice(row.get(3)),
                created_ms: row.get(4),
            };
            Ok(Ring { generation: generation.unwrap_or(0).cast_unsigned(), rows: there.map(row).collect() })
        })
    }

    fn change_ring(&self, change: RingChange) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        let largest = change.add.iter().map(|row| row.wrapped.len()).max().unwrap_or(0);
        if let Err(error) = at_most(largest, MAX_WRAPPED).and_then(|()| self.shared.health.writable()) {
            return refuse(error);
        }
        let shared = Arc::clone(&self.shared);
        self.on_store(async move {
            let (gone, gone_versions): (Vec<&str>, Vec<i64>) =
                change.remove.iter().map(|(name, version)| (&**name, version.cast_signed())).unzip();
            let names: Vec<&str> = change.add.iter().map(|row| &*row.name).collect();
            let versions: Vec<i64> = change.add.iter().map(|row| row.version.cast_signed()).collect();
            let wrapped: Vec<&[u8]> = change.add.iter().map(|row| &*row.wrapped).collect();
            let created: Vec<i64> = change.add.iter().map(|row| row.created_ms).collect();
            let parameters: Parameters<'_> =
                &[&change.generation.cast_signed(), &gone, &gone_versions, &names, &versions, &wrapped, &created];
            // Once: whoever does not hear of the outcome reads the ring.
            let sql = "SELECT mainstay.change_ring_1($1, $2, $3, $4, $5, $6, $7)";
            let row = shared.link.one(sql, parameters).await?;
            let made = row.get::<_, Option<i64>>(0).map(i64::cast_unsigned);
            if let Some(generation) = made {
                shared.ring.send_replace(generation);
                shared.outbound.raise(REVISION);
            }
            Ok(made)
        })
        .boxed()
    }

    fn ring_changes(&self) -> watch::Receiver<u64> {
        self.shared.ring.subscribe()
    }
}
