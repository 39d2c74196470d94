//! The table of docs/benchmarks.md in Markdown: a row goes to standard output as soon as its figure is known.
//!
//! Everything else that a bench has to tell goes to standard error.
#![expect(clippy::print_stdout, reason = "the table is what a bench is for")]

use std::fmt;

use mainstay_testkit::bench::Sample;

/// What a figure is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    /// It only explains another.
    None,
    AtMost(f64),
    AtLeast(f64),
}

/// A floor or a peer, measured in the same runs.
pub(crate) struct Floor<'a> {
    pub(crate) what: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) runs: &'a [f64],
}

/// One figure.
pub(crate) struct Row<'a> {
    pub(crate) what: &'a str,
    pub(crate) aim: Aim,
    pub(crate) unit: &'a str,
    pub(crate) runs: &'a [f64],
    /// Those in the figure's own unit give a ratio.
    pub(crate) floors: &'a [Floor<'a>],
    pub(crate) bound: &'a str,
    /// Percent of the processors that others used just before each run.
    pub(crate) others: &'a [f64],
    /// The bench's name.
    pub(crate) bench: &'a str,
}

/// The table's first two lines.
pub(crate) fn head() {
    println!(
        "| figure | aim | median (min-max) | verdict | floor or peer of the same runs | figure / floor | what bounds it | runs, load of others | `scripts/bench` |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
}

impl Row<'_> {
    pub(crate) fn print(&self) {
        println!("{self}");
    }

    /// By how much the aim was missed, if it was.
    fn verdict(&self, median: f64) -> String {
        let missed = match self.aim {
            Aim::None => return String::new(),
            Aim::AtMost(aim) => median / aim,
            Aim::AtLeast(aim) => aim / median,
        };
        if missed <= 1.0 { "met".to_owned() } else { format!("**missed**, by a factor of {missed:.2}") }
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sample: Sample = self.runs.iter().copied().collect();
        let (median, unit) = (sample.median(), self.unit);
        let aim = match self.aim {
            Aim::None => String::new(),
            Aim::AtMost(aim) => format!("<= {aim} {unit}"),
            Aim::AtLeast(aim) => format!(">= {aim} {unit}"),
        };
        let floors: Vec<_> = self.floors.iter().map(|floor| (floor, floor.runs.iter().copied().collect())).collect();
        let told = |(floor, sample): &(&Floor<'_>, Sample)| format!("{}: {sample} {}", floor.what, floor.unit);
        let ratio = |(floor, sample): &(&Floor<'_>, Sample)| {
            (floor.unit == unit).then(|| format!("{:.2}", median / sample.median()))
        };
        let others: Sample = self.others.iter().copied().collect();
        write!(
            f,
            "| {} | {aim} | {sample} {unit} | {} | {} | {} | {} | {}, {:.0} % | `{}` |",
            self.what,
            self.verdict(median),
            floors.iter().map(told).collect::<Vec<_>>().join("; "),
            floors.iter().filter_map(ratio).collect::<Vec<_>>().join("; "),
            self.bound,
            sample.len(),
            others.max(),
            self.bench,
        )
    }
}
