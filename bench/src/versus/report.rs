//! What was measured: a table with ratios, and a chart.

use std::fmt::Write as _;
use std::path::Path;

use crate::docs::{self, figure};

/// Which figure is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

struct Row {
    work: String,
    unit: &'static str,
    better: Better,
    values: Vec<Option<f64>>,
    /// The others that the first is compared with.
    against: Vec<usize>,
}

impl Row {
    /// How much better the first is than the best of the others.
    fn ratio(&self) -> Option<f64> {
        let first = self.values.first()?;
        let others = self.against.iter().filter_map(|&at| self.values[at]);
        match self.better {
            Better::More => others.reduce(f64::max).map(|best| (*first).unwrap_or(0.0) / best),
            Better::Less => others.reduce(f64::min).map(|best| best / (*first).unwrap_or(f64::INFINITY)),
        }
        .filter(|ratio| ratio.is_finite() && *ratio > 0.0)
    }
}

/// The rows so far; the first column is Hydra's.
pub(crate) struct Report {
    names: Vec<&'static str>,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new<const N: usize>(names: [&'static str; N]) -> Report {
        Report { names: names.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, work: &str, unit: &'static str, better: Better, values: &[Option<f64>]) {
        self.add_row(work, unit, better, values, (1..self.names.len()).collect());
    }

    /// The same, compared with one of the others only.
    pub(crate) fn add_against(
        &mut self,
        work: &str,
        unit: &'static str,
        better: Better,
        values: &[Option<f64>],
        other: &str,
    ) {
        let against = self.names.iter().position(|name| *name == other).into_iter().collect();
        self.add_row(work, unit, better, values, against);
    }

    fn add_row(&mut self, work: &str, unit: &'static str, better: Better, values: &[Option<f64>], against: Vec<usize>) {
        let mut values = values.to_vec();
        values.resize(self.names.len(), None);
        let row = Row { work: work.to_owned(), unit, better, values, against };
        println!("{}", self.line(&row));
        self.rows.push(row);
    }

    fn line(&self, row: &Row) -> String {
        let cells: Vec<String> = row.values.iter().map(|value| value.map_or("–".into(), figure)).collect();
        let ratio = row.ratio().map_or("–".into(), |ratio| format!("{ratio:.1}×"));
        format!("| {} ({}) | {} | {ratio} |", row.work, row.unit, cells.join(" | "))
    }

    fn table(&self) -> String {
        let mut text = format!("| work | {} | Hydra against the best other |\n|", self.names.join(" | "));
        text.push_str(&" --- |".repeat(self.names.len() + 2));
        text.push('\n');
        for row in &self.rows {
            let _ = writeln!(text, "{}", self.line(row));
        }
        text
    }

    pub(crate) fn print(&self) {
        println!("\n{}", self.table());
    }

    /// Puts the table in its place in `benchmarks.md`, and draws the chart beside it.
    pub(crate) fn write(&self, docs: &Path) -> anyhow::Result<()> {
        docs::write(docs, "engine", &self.table())?;
        std::fs::write(docs.join("benchmarks.svg"), self.chart())?;
        Ok(())
    }

    /// A bar for each row on a scale of powers of ten; the middle is the best of the others.
    fn chart(&self) -> String {
        const LEFT: usize = 360;
        const WIDTH: f64 = 420.0;
        const STEP: usize = 26;
        let rows: Vec<(&Row, f64)> = self.rows.iter().filter_map(|row| Some((row, row.ratio()?))).collect();
        let height = 60 + rows.len() * STEP;
        let middle = LEFT as f64 + WIDTH / 3.0;
        let place = |ratio: f64| middle + (ratio.log10().clamp(-1.0, 2.0)) * WIDTH / 3.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 860 {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"860\" height=\"{height}\" fill=\"#fff\"/>\n\
             <text x=\"16\" y=\"24\" font-weight=\"bold\">Hydra against the best of redb, fjall and SQLite</text>\n"
        );
        for (label, ratio) in [("0.1×", 0.1), ("1×", 1.0), ("10×", 10.0), ("100×", 100.0)] {
            let x = place(ratio);
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.0} 40V{height}\" stroke=\"#ccc\"/><text x=\"{:.0}\" y=\"38\" fill=\"#666\">{label}</text>",
                x + 3.0
            );
        }
        for (index, (row, ratio)) in rows.iter().enumerate() {
            let y = 48 + index * STEP;
            let (from, to) = (middle.min(place(*ratio)), middle.max(place(*ratio)));
            let colour = if *ratio >= 1.0 { "#2a7" } else { "#c64" };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{from:.0}\" y=\"{y}\" width=\"{:.0}\" height=\"16\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{}\">{ratio:.1}×</text>",
                LEFT - 10,
                y + 13,
                row.work,
                (to - from).max(1.0),
                to + 5.0,
                y + 13
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}
