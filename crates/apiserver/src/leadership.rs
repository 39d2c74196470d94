//! Writes of leaders: they say under which lease, and in which term, and are refused when another leads. So are those of
//! node agents, whose lease is an object: it must still be as it was when their term was found to be the newest.

use std::sync::Arc;

use http::HeaderMap;
use mainstay_api::names::FENCE_HEADER;
use mainstay_store::{Fence, Given, Object, Revision, StoreError, Write};

use crate::node;
use crate::server::Call;
use crate::status::{ApiError, ApiResult};

/// Renewals of a node's lease that one of its writes may meet in a row; they are seconds apart.
const MAX_RENEWALS: usize = 8;

/// Under which lease the request writes, if it says so.
///
/// # Errors
/// 400 when it says so twice, or not in this form.
pub(crate) fn fence(headers: &HeaderMap) -> ApiResult<Option<Fence>> {
    let mut said = headers.get_all(FENCE_HEADER).iter();
    let Some(value) = said.next() else { return Ok(None) };
    let fence = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|_| said.next().is_none());
    fence
        .map(Some)
        .ok_or_else(|| ApiError::bad_request(format!("{FENCE_HEADER}: expected LEASE/TERM, the term a number, once")))
}

impl Call<'_> {
    /// Writes an object, as a leader or as a node's agent when the request is one's.
    ///
    /// # Errors
    /// What the store refuses.
    pub(crate) async fn write(&self, write: Write) -> Result<Arc<Object>, StoreError> {
        self.write_if_none_since(None, write).await
    }

    /// As [`Call::write`], if of its resource nothing was created in its namespace above a revision.
    ///
    /// # Errors
    /// What the store refuses.
    pub(crate) async fn write_if_none_since(
        &self,
        none_since: Option<Revision>,
        write: Write,
    ) -> Result<Arc<Object>, StoreError> {
        let written = self.written(none_since, write).await;
        if matches!(written, Err(StoreError::Deposed(_))) {
            self.server.metrics().fenced();
        }
        written
    }

    async fn written(&self, none_since: Option<Revision>, write: Write) -> Result<Arc<Object>, StoreError> {
        let given = Given { fence: self.fence.clone(), requires: None, none_since };
        if !self.identity.is_node() {
            return self.server.store().write_given(given, write).await;
        }
        for _ in 0..MAX_RENEWALS {
            let requires = node::standing(self).await?;
            let lease = requires.as_ref().map(|lease| lease.key.clone());
            let written = self.server.store().write_given(Given { requires, ..given.clone() }, write.clone()).await;
            match written {
                // It was renewed, or somebody else has taken it.
                Err(StoreError::Unmet(key)) if Some(&key) == lease.as_ref() => {}
                written => return written,
            }
        }
        Err(StoreError::Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_said_once_and_well() {
        let headers = |values: &[&str]| {
            values.iter().map(|value| (FENCE_HEADER.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        assert_eq!(fence(&headers(&[])).unwrap(), None);
        assert_eq!(fence(&headers(&["a/7"])).unwrap(), Some(Fence { lease: "a".into(), term: 7 }));
        for wrong in [&["a"][..], &["a/7", "a/8"], &["7"]] {
            assert_eq!(fence(&headers(wrong)).unwrap_err().code(), 400, "{wrong:?}");
        }
    }
}
