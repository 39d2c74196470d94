//! What the controllers count, for the API server's `/metrics`.

use std::sync::Arc;

use mainstay_apiserver::metrics::{Figure, Figures};
use mainstay_controllers::driver::Metrics;

/// The counters of every controller, by its name.
#[derive(Clone)]
pub(super) struct Controllers(pub(super) Vec<(&'static str, Arc<Metrics>)>);

impl Controllers {
    /// Whether each has seen all that it watches; until then it does not know what there is to do.
    pub(super) fn ready(&self) -> Result<(), String> {
        let left = self.0.iter().map(|(name, metrics)| (name, metrics.first_lists.left()));
        let late: Vec<String> = left
            .filter(|(_, left)| *left > 0)
            .map(|(name, left)| format!("{name}: {left} first lists to go"))
            .collect();
        if late.is_empty() { Ok(()) } else { Err(late.join(", ")) }
    }

    /// Waits until each has.
    pub(super) async fn all_ready(&self) {
        for (_, metrics) in &self.0 {
            metrics.first_lists.all().await;
        }
    }
}

impl Figures for Controllers {
    fn read(&self) -> Vec<Figure> {
        let mut figures: Vec<Figure> = Vec::new();
        for (controller, metrics) in &self.0 {
            for (at, reading) in metrics.all().into_iter().enumerate() {
                let value = (vec![("controller", (*controller).into())], reading.value.into());
                match figures.get_mut(at) {
                    Some(figure) => figure.values.push(value),
                    None => figures.push(Figure {
                        name: format!("driver_{}", reading.name),
                        help: reading.help,
                        counter: reading.counter,
                        values: vec![value],
                    }),
                }
            }
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn controllers_that_watch_nothing_are_ready() {
        let controllers = Controllers(vec![("one", Arc::default())]);
        controllers.all_ready().await;
        assert_eq!(controllers.ready(), Ok(()));
    }

    #[test]
    fn each_controller_is_a_label_of_each_figure() {
        let (one, other) = (Arc::new(Metrics::default()), Arc::new(Metrics::default()));
        other.reconciles.increment();
        let figures = Controllers(vec![("one", one), ("other", other)]).read();
        let reconciles = figures.iter().find(|figure| figure.name == "driver_reconciles").unwrap();
        assert!(reconciles.counter);
        assert_eq!(
            reconciles.values,
            [(vec![("controller", "one".into())], 0.into()), (vec![("controller", "other".into())], 1.into())]
        );
        assert!(figures.iter().all(|figure| figure.values.len() == 2));
    }
}
