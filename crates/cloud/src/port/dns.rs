//! Names.

use std::future::Future;

use mainstay_runtime::operation::EffectKey;
use serde::{Deserialize, Serialize};

use super::{Backend, Receipt, effect};
use crate::limits::dns::EFFECT;
use crate::resilient::through;
use crate::{CloudError, Resilient};

/// A backend that answers for names.
pub trait Dns: Backend {
    /// Makes or changes the record of a name.
    fn put_record(&self, key: &EffectKey, name: &str, record: &Record) -> effect!();
    /// Removes it; that it is not there is as good.
    fn delete_record(&self, key: &EffectKey, name: &str) -> effect!();
}

/// What a name is to stand for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `A`, `AAAA`, `CNAME`, ...
    pub kind: String,
    /// For how long others may remember it, in seconds.
    pub ttl_seconds: u32,
    /// What it stands for.
    pub values: Vec<String>,
}

impl<P: Dns> Dns for Resilient<P> {
    async fn put_record(&self, key: &EffectKey, name: &str, record: &Record) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, put_record, key, name, record)
    }

    async fn delete_record(&self, key: &EffectKey, name: &str) -> Result<Receipt, CloudError> {
        through!(self, &EFFECT, delete_record, key, name)
    }
}
