//! Contestants at the same work, measured by turns, and the table of what they did.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::docs;
use crate::load::{self, Load, Measured, Requests, Target};

/// Who takes part, and what it is asked.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) target: Target,
    pub(crate) requests: Requests,
}

/// How the measurements go.
pub(crate) struct Contest {
    pub(crate) runtime: Runtime,
    pub(crate) load: Load,
    pub(crate) rounds: usize,
}

impl Contest {
    pub(crate) fn new(load: Load, rounds: usize) -> anyhow::Result<Contest> {
        anyhow::ensure!(rounds > 0 && load.connections > 0, "there is nothing to measure");
        Ok(Contest { runtime: Runtime::new()?, load, rounds })
    }

    /// Measures each once in every round. Who comes first changes from round to round: a slow moment of the machine, and
    /// what one leaves behind for the next, meet all of them.
    pub(crate) fn run(&self, load: Load, contestants: &[Contestant]) -> anyhow::Result<Vec<Samples>> {
        let mut samples: Vec<Samples> = contestants.iter().map(|one| Samples::new(one.name)).collect();
        for round in 0..self.rounds {
            for turn in 0..contestants.len() {
                let at = (round + turn) % contestants.len();
                let Contestant { target, requests, .. } = &contestants[at];
                samples[at].all.push(self.runtime.block_on(load::run(target, load, requests))?);
            }
        }
        Ok(samples)
    }

    /// How it was measured, in words.
    pub(crate) fn described(&self) -> String {
        format!(
            "{} connections, medians of {} rounds of {:.1} s, {} cores shared by the client and all servers.",
            self.load.connections,
            self.rounds,
            self.load.time.as_secs_f64(),
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        )
    }
}

/// What one contestant did in every round.
pub(crate) struct Samples {
    name: &'static str,
    all: Vec<Measured>,
}

impl Samples {
    fn new(name: &'static str) -> Samples {
        Samples { name, all: Vec::new() }
    }

    /// The median of a figure.
    pub(crate) fn median(&self, figure: impl Fn(&Measured) -> f64) -> f64 {
        median(self.all.iter().map(figure))
    }

    /// The median of a figure that is made of this one's and another's in the same round.
    pub(crate) fn against(&self, other: &Samples, figure: impl Fn(&Measured, &Measured) -> f64) -> f64 {
        median(self.all.iter().zip(&other.all).map(|(ours, theirs)| figure(ours, theirs)))
    }

    /// How many times as many requests per second as another.
    pub(crate) fn times(&self, other: &Samples) -> f64 {
        self.against(other, |ours, theirs| ours.per_second / theirs.per_second)
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One line for each work and contestant.
pub(crate) struct Table {
    text: String,
}

impl Table {
    /// A table whose last column compares `ours` with who is in the line.
    pub(crate) fn new(ours: &str) -> Table {
        let mut text = format!(
            "| work | who | per second | p50 | p99 | processor per request: server | client | {ours} against it |\n|"
        );
        text.push_str(&" --- |".repeat(8));
        text.push('\n');
        Table { text }
    }

    /// Writes down what all did at one work; the first is ours.
    pub(crate) fn add(&mut self, work: &str, samples: &[Samples]) {
        for (at, one) in samples.iter().enumerate() {
            let against = if at == 0 { "–".to_owned() } else { ratio(samples[0].times(one)) };
            self.line(work, one, 1.0, &against);
        }
    }

    /// Writes one line; a request counts as `each` pieces of work.
    pub(crate) fn line(&mut self, work: &str, one: &Samples, each: f64, against: &str) {
        let micros = |figure: fn(&Measured) -> Duration| docs::micros(one.median(|m| figure(m).as_secs_f64()));
        let line = format!(
            "| {work} | {} | {} | {} | {} | {} | {} | {against} |",
            one.name,
            docs::figure(one.median(|m| m.per_second) * each),
            micros(|m| m.p50),
            micros(|m| m.p99),
            micros(|m| m.server_cpu),
            micros(|m| m.client_cpu),
        );
        println!("{line}");
        let _ = writeln!(self.text, "{line}");
    }

    /// Writes the table, and what is said about it, to its place in `benchmarks.md`.
    pub(crate) fn write(&self, docs: &Path, place: &str, remarks: &str) -> anyhow::Result<()> {
        docs::write(docs, place, &format!("{}\n{remarks}", self.text))
    }
}

/// A ratio: in percent where the two are close.
fn ratio(times: f64) -> String {
    if times < 1.25 { format!("{:.0} %", 100.0 * times) } else { format!("{times:.1}×") }
}
