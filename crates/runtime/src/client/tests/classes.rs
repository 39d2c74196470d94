//! Which class an answer, or none, has.

use super::super::*;
use kube::core::response::StatusDetails;

fn api(code: u16, reason: &str, retry_after_seconds: u32) -> CallError {
    let mut status = Status::failure("as asked", reason).with_code(code);
    status.details = Some(StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds,
    });
    kube::Error::Api(Box::new(status)).into()
}

#[test]
fn a_refusal_is_told_in_the_servers_words_only() {
    let told = crate::failure::chain_of(&api(403, "Forbidden", 0));
    assert_eq!(told, "as asked");
    let wordless = Status { code: 500, ..Status::default() };
    let told = crate::failure::chain_of(&CallError::from(kube::Error::Api(Box::new(wordless))));
    assert_eq!(told, "the server answered with status 500");
}

/// R16.
#[test]
fn answers_are_classed_by_status_and_reason() {
    for (code, reason, class) in [
        (404, "NotFound", Class::Terminal(Reason::NotFound)),
        (409, "Conflict", Class::Conflict),
        (409, "AlreadyExists", Class::Terminal(Reason::AlreadyExists)),
        (409, "Fenced", Class::Fenced),
        (401, "Fenced", Class::Fenced),
        (403, "Forbidden", Class::Terminal(Reason::Forbidden)),
        (403, "QuotaExceeded", Class::Terminal(Reason::QuotaExceeded)),
        (422, "Invalid", Class::Terminal(Reason::Invalid)),
        (500, "InternalError", Class::TRANSIENT),
        (0, "", Class::Indeterminate),
    ] {
        assert_eq!(api(code, reason, 0).class(), class, "{code} {reason}");
    }
    let wait = Some(Duration::from_secs(3));
    assert_eq!(api(429, "TooManyRequests", 3).class(), Class::Transient { retry_after: wait });
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_is_in_doubt() {
    let silent = std::future::pending::<Result<(), kube::Error>>();
    assert_eq!(bounded(silent).await.unwrap_err().class(), Class::Indeterminate);
}

/// R21.
#[tokio::test(start_paused = true)]
async fn a_bounded_client_does_not_wait_for_ever() {
    let silent = tower::service_fn(|_: ::http::Request<kube::client::Body>| {
        std::future::pending::<Result<::http::Response<kube::client::Body>, std::convert::Infallible>>()
    });
    let client = bounded_client(kube::Client::new(silent, "default"));
    assert!(client.apiserver_version().await.is_err());
}
