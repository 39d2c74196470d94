//! Who is let in, and with which words the others are turned away.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Request;
use mainstay_runtime::Clock;
use mainstay_store::{Key, StoreError};

use super::*;
use crate::token::{Subject, Subjects};

struct Nothing;

impl Subjects for Nothing {
    fn find(&self, _key: Key) -> BoxFuture<'_, Result<Option<Subject>, StoreError>> {
        async { Ok(None) }.boxed()
    }
}

struct Fixture {
    authenticator: Authenticator,
    admin: String,
    _dir: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let keys = Arc::new(Keys::ephemeral(clock.now()).unwrap());
    let path = dir.path().join("admin.kubeconfig");
    keys.write_kubeconfig(&path, "https://127.0.0.1:1").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let admin = text.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap().to_owned();
    let tokens = Arc::new(Tokens::new(&keys, Arc::new(Nothing), clock));
    Fixture { authenticator: Authenticator::new(keys, tokens), admin, _dir: dir }
}

impl Fixture {
    async fn with(&self, headers: &[&str]) -> Result<Identity, AuthError> {
        let mut request = Request::builder().uri("/api/v1/pods");
        for header in headers {
            request = request.header(AUTHORIZATION, *header);
        }
        self.authenticator.authenticate(&request.body(()).unwrap().into_parts().0).await
    }
}

#[tokio::test]
async fn the_admin_token_is_the_administrator() {
    let fixture = fixture();
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let who = fixture.with(&[&format!("{scheme} {}", fixture.admin)]).await.unwrap();
        assert_eq!(who.user(), "admin");
        assert!(who.is_in(identity::MASTERS) && who.is_in(identity::AUTHENTICATED));
    }
}

#[tokio::test]
async fn everyone_else_is_refused_with_a_clear_word_and_without_an_echo() {
    let fixture = fixture();
    let admin = fixture.admin.clone();
    let good = format!("Bearer {admin}");
    let table: &[(&[&str], &str)] = &[
        (&[], "no credentials were given"),
        (&[""], "expected \"Bearer TOKEN\""),
        (&["Bearer"], "expected \"Bearer TOKEN\""),
        (&["Bearer "], "the token is empty"),
        (&["Bearer    "], "the token is empty"),
        (&["Basic YWRtaW46YWRtaW4="], "only the scheme Bearer"),
        (&[&good, &good], "more than once"),
        (&[&format!("Bearer {}", &admin[..admin.len() - 1])], "not valid for this server"),
        (&[&format!("Bearer {admin}A")], "not valid for this server"),
        (&[&format!("Bearer {}", "a.".repeat(600_000))], "too long"),
        (&["Bearer eyJhbGciOiJub25lIn0.e30."], "not valid for this server"),
        (&["Bearer \u{e9}"], "not ASCII"),
    ];
    for (headers, words) in table {
        let error = fixture.with(headers).await.unwrap_err();
        assert_eq!(error.class(), Class::Terminal(Reason::Unauthorized));
        let text = error.to_string();
        assert!(text.contains(words), "{words}: {text}");
        assert!(text.len() < 100 && !text.contains(&admin[..20]), "{text}");
    }
}

#[tokio::test]
async fn nobody_acts_as_somebody_else() {
    let fixture = fixture();
    for header in ["Impersonate-User", "impersonate-group", "Impersonate-Extra-x"] {
        let request =
            Request::builder().header(AUTHORIZATION, format!("Bearer {}", fixture.admin)).header(header, "ann");
        let error = fixture.authenticator.authenticate(&request.body(()).unwrap().into_parts().0).await.unwrap_err();
        assert!(error.to_string().contains("impersonation is not offered"), "{error}");
    }
}

/// R30.
#[test]
fn only_health_and_version_are_open() {
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        assert!(is_open(path));
    }
    for path in ["/", "/metrics", "/api", "/livez/", "/livez/../metrics", "/readyz/ping", "/openapi/v3"] {
        assert!(!is_open(path), "{path}");
    }
}
