//! The figures of what stands in front of backends. Their number is bounded: the gates that are kept are.

use mainstay_runtime::resilience::breaker::State;
use mainstay_runtime::resilience::gates::{Gates, View};

use super::{Figure, Value};

pub(super) fn of_gates(gates: &Gates) -> Vec<Figure> {
    let views = gates.view();
    let each = |name: &str, help, counter, value: fn(&View) -> u64| {
        let value = |view: &View| {
            let key = &view.key;
            let host = key.host.to_string().into();
            (vec![("backend", key.backend.into()), ("class", key.class.into()), ("host", host)], value(view).into())
        };
        Figure { name: format!("backend_{name}"), help, counter, values: views.iter().map(value).collect() }
    };
    let (counter, gauge) = (true, false);
    let state = |view: &View| match view.state {
        State::Closed => 0,
        State::HalfOpen => 1,
        State::Open => 2,
    };
    let budgets = gates.budgets().into_iter().map(|(backend, left)| (backend, Value::Count(left.into())));
    vec![
        each("calls", "Calls to a backend", counter, |view| view.counts.calls),
        each("repeats", "Repeats of calls that failed", counter, |view| view.counts.repeats),
        each("sick", "Attempts that failed by the backend's fault, or had no answer in time", counter, |view| {
            view.counts.sick
        }),
        each("late", "Attempts that had no answer within their deadline", counter, |view| view.counts.late),
        each("refused", "Attempts that the open breaker refused", counter, |view| view.counts.refused),
        each("full", "Attempts that found no place in the bulkhead", counter, |view| view.counts.full),
        each("opened", "Times that the breaker opened", counter, |view| view.counts.opened),
        each("breaker_state", "Of the breaker: 0 closed, 1 half-open, 2 open", gauge, state),
        each("calls_in_flight", "Calls that have a place in the bulkhead", gauge, |view| view.inside as u64),
        each("calls_waiting", "Calls that wait for a place", gauge, |view| view.waiting as u64),
        each("places", "Places of the bulkhead", gauge, |view| view.places as u64),
        Figure::by("backend", "backend_repeats_left", "Repeats that the retry budget still allows", gauge, budgets),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mainstay_runtime::resilience::Denied;
    use mainstay_runtime::resilience::gates::{Key, Limits};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sick_backend_shows_with_its_class_and_host() {
        let gates = Gates::new(8);
        let key = Key { backend: "compute", class: "launch", host: "one:1".into() };
        let gate = gates.of(&key, &Limits::of(Duration::from_secs(1)));
        for _ in 0..6 {
            let late = || async { Err::<(), _>(Denied::TooLate(Duration::ZERO)) };
            gate.call(false, late).await.unwrap_err();
        }
        let figures = of_gates(&gates);
        let value = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap().values[0].clone();
        let labels = vec![("backend", "compute".into()), ("class", "launch".into()), ("host", "one:1".into())];
        assert_eq!(value("backend_breaker_state"), (labels, Value::Count(2)));
        for (name, count) in [("calls", 6), ("late", 5), ("sick", 5), ("refused", 1), ("opened", 1), ("repeats", 0)] {
            assert_eq!(value(&format!("backend_{name}")).1, Value::Count(count), "{name}");
        }
        assert_eq!(value("backend_repeats_left"), (vec![("backend", "compute".into())], Value::Count(10)));
    }
}
