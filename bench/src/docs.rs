//! Figures as they are written, and their places in `docs/benchmarks.md`.

use std::path::Path;

use anyhow::Context;

/// Puts a text between the marks of its place on the page, instead of what stands there.
pub(crate) fn write(docs: &Path, place: &str, text: &str) -> anyhow::Result<()> {
    let page = docs.join("benchmarks.md");
    let known = std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let (begin, end) = (format!("<!-- figures: {place} -->\n"), format!("<!-- end of figures: {place} -->"));
    let parts = known.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let (head, tail) = parts.with_context(|| format!("{} has no marks for the figures: {place}", page.display()))?;
    std::fs::write(&page, format!("{head}{begin}{}\n{end}{tail}", text.trim_end()))
        .with_context(|| format!("cannot write {}", page.display()))
}

/// Three significant places, with groups of thousands.
pub(crate) fn figure(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let groups: Vec<String> =
        digits.as_bytes().rchunks(3).rev().map(|g| String::from_utf8_lossy(g).into_owned()).collect();
    groups.join(" ")
}

/// Seconds as microseconds.
pub(crate) fn micros(seconds: f64) -> String {
    format!("{} µs", figure(seconds * 1e6))
}
