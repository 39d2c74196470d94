use std::sync::Arc;

use mainstay_api::Registry;
use mainstay_runtime::Reason;
use mainstay_runtime::client::CallError;
use mainstay_store::{Fence, Revision, StoreError};

use super::*;

/// The class that a client reads from an answer, without the wait that it asks for.
fn read(error: &ApiError) -> Class {
    let status = serde_json::from_slice(&error.to_json()).unwrap();
    match CallError::Refused(status).class() {
        Class::Transient { .. } => Class::TRANSIENT,
        class => class,
    }
}

/// R16.
#[test]
fn whoever_reads_an_answer_finds_the_class_that_the_failure_had() {
    let registry = Registry::standard();
    let kind = registry.iter().next().unwrap();
    let about = About { kind, name: "a" };
    let database = StoreError::Database(Arc::new(std::io::Error::other("no answer")));
    let errors = [
        StoreError::Missing,
        StoreError::TooLarge { size: 2, limit: 1 },
        StoreError::Expired { asked: Revision(1), floor: Revision(2) },
        StoreError::Future { asked: Revision(2), current: Revision(1) },
        StoreError::Busy,
        StoreError::Full,
        StoreError::Away(Arc::new(std::io::Error::other("no way"))),
        StoreError::Closed,
        StoreError::Deposed(Fence { lease: "a".into(), term: 1 }),
        database,
    ];
    for error in errors {
        let answer = ApiError::from_store(&error, about);
        assert_eq!(read(&answer), error.class(), "{error:?} is answered {answer}");
    }
    assert_eq!(read(&ApiError::fenced("an older term")), Class::Fenced);
    assert_eq!(read(&ApiError::already_exists(about)), Class::Terminal(Reason::AlreadyExists));
    assert_eq!(read(&ApiError::modified(about)), Class::Conflict);
}
