//! Writes of leaders: they say under which lease, and in which term, and are refused when another leads.

use std::sync::Arc;

use http::HeaderMap;
use mainstay_api::names::FENCE_HEADER;
use mainstay_store::{Fence, Object, StoreError, Write};

use crate::server::Call;
use crate::status::{ApiError, ApiResult};

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
    /// Writes an object, as a leader when the request says so.
    ///
    /// # Errors
    /// What the store refuses.
    pub(crate) async fn write(&self, write: Write) -> Result<Arc<Object>, StoreError> {
        match self.fence.clone() {
            Some(fence) => self.server.store().write_under(fence, write).await,
            None => self.server.store().write(write).await,
        }
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
