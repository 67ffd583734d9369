//! What a check of a client map has to say: findings with stable codes, and the error that carries them.

use std::fmt;
use std::io;
use std::path::Path;

use super::difference::FolderMove;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; the map is usable.
    Warning,
    /// The map is refused.
    Error,
}

/// One thing that a check of a client map found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// A stable code: `E…` for errors, `W…` for warnings.
    pub code: &'static str,
    /// Whether the map is refused because of it.
    pub severity: Severity,
    /// What is wrong, where, and what is allowed; names the folders, servers or patterns it is about.
    pub message: String,
    /// Line and column in the file, both counted from 1, where the finding is about a place in a file.
    pub at: Option<(usize, usize)>,
}

impl Finding {
    /// A finding without a place; its severity is the first letter of its code.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Finding {
        let severity = if code.starts_with('W') { Severity::Warning } else { Severity::Error };
        Finding { code, severity, message: message.into(), at: None }
    }

    /// A map takes folders from a server that still owns them.
    #[must_use]
    pub fn still_owned(moved: &FolderMove) -> Finding {
        let FolderMove { pool, folders, from, to, .. } = moved;
        let message = format!(
            "this map moves folders {folders} of pool {pool} from {from} to {to}, and {from} still owns them: run \
             \"hydra-router move\", or accept moves if the data is there"
        );
        Finding::new("E401", message)
    }

    pub(crate) fn at(mut self, at: (usize, usize)) -> Finding {
        self.at = Some(at);
        self
    }

    /// Whether the map is refused because of it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some((line, column)) = self.at {
            write!(f, "{line}:{column}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// A client map that was refused, with everything that was found, not only the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapError {
    origin: Option<String>,
    findings: Vec<Finding>,
}

impl MapError {
    pub(crate) fn new(findings: Vec<Finding>) -> MapError {
        MapError { origin: None, findings }
    }

    /// A file that could not be read.
    pub(crate) fn unreadable(path: &Path, error: &io::Error) -> MapError {
        MapError::new(vec![Finding::new("E000", format!("cannot read {}: {error}", path.display()))])
    }

    pub(crate) fn with_origin(mut self, origin: impl Into<String>) -> MapError {
        self.origin = Some(origin.into());
        self
    }

    /// Every finding, errors before warnings.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client map")?;
        if let Some(origin) = &self.origin {
            write!(f, " {origin}")?;
        }
        f.write_str(" is refused: ")?;
        for (index, finding) in self.findings.iter().filter(|finding| finding.is_error()).enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            finding.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for MapError {}

/// `; did you mean "x"?` when one of the candidates is close to what was written.
pub(crate) fn did_you_mean<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let closest = candidates.into_iter().map(|candidate| (distance(written, candidate), candidate)).min();
    match closest {
        Some((steps, candidate)) if steps <= 2.max(written.len() / 3) => format!("; did you mean {candidate:?}?"),
        _ => String::new(),
    }
}

/// Levenshtein distance over characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_words_are_suggested_and_far_ones_are_not() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(did_you_mean("fallback", ["fallbacks", "primary"]), "; did you mean \"fallbacks\"?");
        assert_eq!(did_you_mean("policy", ["servers", "route"]), "");
    }
}
