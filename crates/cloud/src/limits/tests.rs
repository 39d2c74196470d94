use mainstay_runtime::resilience::retry::Budget;

use super::*;

fn span(span: Duration) -> String {
    match (span.as_secs(), span.subsec_millis()) {
        (seconds, 0) if seconds > 60 && seconds % 60 == 0 => format!("{} min", seconds / 60),
        (seconds, 0) => format!("{seconds} s"),
        _ => format!("{} ms", span.as_millis()),
    }
}

fn classes() -> impl Iterator<Item = (&'static Backend, &'static Class)> {
    ALL.into_iter()
        .flat_map(|backend| std::iter::once(&backend.read).chain(backend.effects).map(move |class| (backend, *class)))
}

fn rows() -> Vec<String> {
    let row = |(backend, class): (&Backend, &Class)| {
        let (limits, name, why) = (class.limits, class.name, class.why);
        let (places, attempts, calls) = (limits.bulkhead.places, limits.retry.attempts, limits.breaker.at_least);
        let [deadline, slow, window, bound] =
            [limits.deadline, limits.breaker.slow, limits.breaker.window, limits.bound()].map(span);
        let backend = backend.name;
        format!(
            "| `{backend}` | `{name}` | {deadline} | {slow} | {calls} in {window} | {places} | {attempts} | {bound} | {why} |"
        )
    };
    classes().map(row).collect()
}

/// What all classes have in common, as sentences begin in the document.
fn common() -> Vec<String> {
    let limits = ALL[0].read.limits;
    let (breaker, bulkhead, retry) = (limits.breaker, limits.bulkhead, limits.retry);
    let same = |(_, class): (&Backend, &Class)| {
        let own = class.limits;
        (own.breaker.failed_percent, own.breaker.slow_percent, own.breaker.open_for, own.breaker.successes)
            == (breaker.failed_percent, breaker.slow_percent, breaker.open_for, breaker.successes)
            && own.bulkhead.wait == bulkhead.wait
            && own.bulkhead.waiting == own.bulkhead.places
            && (own.retry.base, own.retry.cap) == (retry.base, retry.cap)
            && own.breaker.slow * 2 == own.deadline
    };
    assert!(classes().all(same), "a class differs in what the document says to be the same");
    vec![
        format!("| failures | {} % |", breaker.failed_percent),
        format!("| slow calls | {} % |", breaker.slow_percent),
        format!("| stays open | {} |", span(breaker.open_for)),
        format!("| probes to close | {} |", breaker.successes),
        format!("| wait for a place | {} |", span(bulkhead.wait)),
        format!("| first wait before a repeat | up to {} |", span(retry.base)),
        format!("| longest wait before a repeat | {} |", span(retry.cap)),
        format!("| repeats saved up | {} |", Budget::MOST),
        format!("| an answer's length | {} MiB from backends |", MOST_ANSWER / (1024 * 1024)),
        format!("| ping: deadline | {} |", span(PING.deadline)),
        format!("| ping: counts for | {} |", span(PING.fresh)),
    ]
}

#[test]
fn the_document_shows_every_number_as_it_is() {
    let shown = include_str!("../../../../docs/resilience.md");
    let backends: Vec<&str> = shown.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(backends, rows(), "docs/resilience.md should have:\n{}", rows().join("\n"));
    for row in common() {
        assert_eq!(
            shown.lines().filter(|line| line.starts_with(&row)).count(),
            1,
            "docs/resilience.md has no line {row}"
        );
    }
}

/// Whoever waits for a call, an operation's worker at the longest, knows for how long.
#[test]
fn no_call_takes_longer_than_a_quarter_of_an_hour() {
    for (backend, class) in classes() {
        assert!(class.limits.bound() <= Duration::from_mins(15), "{} {}", backend.name, class.name);
    }
}
