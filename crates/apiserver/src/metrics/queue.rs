//! The figures of the queue of operations. Projects are no label: there may be ten thousand of them.

use std::collections::HashSet;

use mainstay_store::operation::{QueueFigures, State};

use super::Figure;

/// The states in which an operation is in the queue, as figures name them.
pub(crate) const STATES: [(State, &str); 5] = [
    (State::Ready, "ready"),
    (State::Delayed, "delayed"),
    (State::Blocked, "blocked"),
    (State::Running, "running"),
    (State::Dead, "dead"),
];

/// What the queue holds, as figures.
pub(crate) fn of_queue(queue: &QueueFigures) -> Vec<Figure> {
    let depth =
        |state: State| -> u64 { queue.depth.iter().filter(|(_, of, _)| *of == state).map(|(.., count)| count).sum() };
    let lanes: HashSet<&str> = queue.depth.iter().map(|(lane, ..)| &**lane).collect();
    let (counter, gauge) = (true, false);
    let depths = STATES.map(|(state, name)| (name, depth(state)));
    let wait = "How long the longest of the operations that can be claimed has waited; 0 when there are none";
    vec![
        Figure::by("state", "operations", "Operations that have not ended well, by state", gauge, depths),
        Figure::plain("operation_projects", "Projects that have such operations", gauge, lanes.len() as u64),
        Figure::plain("operation_longest_wait_seconds", wait, gauge, queue.longest_wait.unwrap_or_default()),
        Figure::plain(
            "operation_fenced",
            "Journal entries, renewals and outcomes refused because their attempt was not the current one",
            counter,
            queue.fenced,
        ),
        Figure::plain("operation_workers_lost", "Attempts whose worker was lost", counter, queue.lost),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Value;

    #[test]
    fn the_depth_is_of_all_projects_and_says_so_of_empty_states() {
        let depth = vec![("a".into(), State::Ready, 3), ("b".into(), State::Ready, 4), ("b".into(), State::Dead, 1)];
        let wait = Duration::from_millis(1_500);
        let figures = of_queue(&QueueFigures { depth, longest_wait: Some(wait), fenced: 5, lost: 6 });
        let values = |at: usize| figures[at].values.iter().map(|(_, value)| *value).collect::<Vec<_>>();
        assert_eq!(values(0), [7, 0, 0, 0, 1].map(Value::Count));
        assert_eq!((values(1), values(2)), (vec![Value::Count(2)], vec![Value::Span(wait)]));
        assert_eq!((values(3), values(4)), (vec![Value::Count(5)], vec![Value::Count(6)]));
        assert_eq!(figures[0].values[4].0, [("state", "dead".into())]);
    }
}
