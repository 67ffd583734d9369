//! A case: steps, and what each must answer.
//!
//! Cases are JSON, an array in each file of `cases`. A step names what it does in `do`, and what must come of it: `is`, the
//! answer as `step` tells it, or `fails`, the code of the error (or its kind, where the client refuses). A step with
//! neither must succeed. An error must say that nothing was applied. Each case has swamps of its own.
//!
//! Anywhere in a step `{"$text": ["ab", 3]}` stands for `ababab`, `{"$list": [1, 3]}` for `[1, 1, 1]` and `{"$nest": 3}`
//! for `[[[]]]`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use hydra_core::Applied;
use hydra_sdk::{Cursor, Error, LockGuard, Taken, Version};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::step::carry_out;
use crate::transport::Transport;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    name: String,
    steps: Vec<Json>,
    /// The file it stands in, and its number there.
    #[serde(skip)]
    place: (String, usize),
}

/// One step; every operation has the members it needs.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Step {
    pub(crate) r#do: String,
    /// Which of the swamps of the case; the whole name with `name`.
    pub(crate) swamp: String,
    pub(crate) key: String,
    pub(crate) value: Json,
    /// A value as its text, where the text matters.
    pub(crate) json: Option<String>,
    /// The content type of a value that is not JSON, whose bytes are in `value`.
    pub(crate) content_type: Option<String>,
    pub(crate) path: Option<String>,
    /// `absent`, `present`, or what was saved.
    pub(crate) r#if: Option<String>,
    /// Milliseconds, as are the other times.
    pub(crate) ttl: Option<u64>,
    pub(crate) keep_ttl: bool,
    pub(crate) create: bool,
    pub(crate) by: Option<serde_json::Number>,
    pub(crate) initial: Option<serde_json::Number>,
    pub(crate) min: Option<serde_json::Number>,
    pub(crate) max: Option<serde_json::Number>,
    /// The idempotency key.
    pub(crate) again: Option<String>,
    pub(crate) ops: Vec<Step>,
    pub(crate) atomic: bool,
    pub(crate) order: Option<String>,
    pub(crate) desc: bool,
    pub(crate) prefix: Option<String>,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    /// A filter, as text or as JSON.
    pub(crate) r#where: Option<Json>,
    pub(crate) expired: Option<String>,
    pub(crate) limit: Option<usize>,
    pub(crate) after: Option<String>,
    pub(crate) n: Option<usize>,
    pub(crate) lease: Option<u64>,
    pub(crate) due: bool,
    pub(crate) wait: Option<u64>,
    pub(crate) owner: Option<String>,
    /// What the answer gives for later steps is kept under this name.
    pub(crate) save: Option<String>,
    is: Option<Json>,
    fails: Option<String>,
}

/// What steps kept for later ones.
#[derive(Default)]
pub(crate) struct Saved {
    pub(crate) versions: HashMap<String, Version>,
    pub(crate) cursors: HashMap<String, Cursor>,
    pub(crate) taken: HashMap<String, Vec<Taken<Json>>>,
    pub(crate) locks: HashMap<String, LockGuard>,
    pub(crate) fences: Vec<u64>,
    pub(crate) keys: HashMap<String, String>,
}

impl Case {
    /// Every case of every file.
    pub(crate) fn all() -> Vec<Case> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/cases");
        let mut files: Vec<_> = fs::read_dir(dir).expect("cases").flatten().map(|entry| entry.path()).collect();
        files.sort();
        files.iter().flat_map(|path| Case::of_file(path)).collect()
    }

    fn of_file(path: &Path) -> Vec<Case> {
        let text = fs::read(path).expect("a file");
        let mut cases: Vec<Case> =
            serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let area = path.file_stem().expect("a name").to_string_lossy();
        for (number, case) in cases.iter_mut().enumerate() {
            case.place = (area.to_string(), number);
        }
        cases
    }

    pub(crate) fn place(&self) -> String {
        format!("{}, {:?}", self.place.0, self.name)
    }

    /// Carries out the steps, until one does not hold.
    pub(crate) async fn hold(&self, transport: &mut Transport) -> Result<(), String> {
        let mut saved = Saved::default();
        for (number, step) in self.steps.iter().enumerate() {
            let step: Step =
                serde_json::from_value(expanded(step)).map_err(|error| format!("step {number}: {error}"))?;
            let swamp = match step.swamp.as_str() {
                "" => "main",
                other => other,
            };
            let name = format!("{}/{}/{swamp}", self.place.0, self.place.1);
            let outcome = carry_out(transport, &name, &step, &mut saved).await;
            step.check(outcome).map_err(|why| format!("step {number}, {}: {}", step.r#do, brief(&why)))?;
        }
        Ok(())
    }
}

impl Step {
    fn check(&self, outcome: Result<Json, Error>) -> Result<(), String> {
        match (outcome, &self.is, &self.fails) {
            (Ok(answer), Some(expected), None) if answer == *expected => Ok(()),
            (Ok(answer), Some(expected), None) => Err(format!("{answer} in place of {expected}")),
            (Ok(_), None, None) => Ok(()),
            (Ok(answer), _, Some(code)) => Err(format!("{answer} in place of {code}")),
            (Err(error), _, Some(code)) if code_of(&error) != *code => Err(format!("{error:?} in place of {code}")),
            (Err(error), _, Some(_)) if error.applied() != Applied::No => Err(format!("{error:?} may be applied")),
            (Err(error), _, Some(_)) if error.detail().len() < 10 => Err(format!("{error:?} explains nothing")),
            (Err(_), _, Some(_)) => Ok(()),
            (Err(error), _, None) => Err(format!("{error:?}")),
        }
    }
}

/// The code of an error, or what a caller can do about it where it has none.
pub(crate) fn code_of(error: &Error) -> String {
    error.code().map_or_else(|| format!("{:?}", error.kind()), |code| code.as_str().to_owned())
}

/// A step with everything long written out.
fn expanded(step: &Json) -> Json {
    match step {
        Json::Array(items) => items.iter().map(expanded).collect(),
        Json::Object(members) => match members.iter().next() {
            Some((name, of)) if members.len() == 1 && name.starts_with('$') => long(name, of),
            _ => members.iter().map(|(name, member)| (name.clone(), expanded(member))).collect(),
        },
        other => other.clone(),
    }
}

fn long(name: &str, of: &Json) -> Json {
    let count = |of: &Json| usize::try_from(of.as_u64().expect("a count")).expect("a count");
    match name {
        "$text" => Json::String(of[0].as_str().expect("a text").repeat(count(&of[1]))),
        "$list" => vec![expanded(&of[0]); count(&of[1])].into(),
        "$nest" => (1..count(of)).fold(Json::Array(Vec::new()), |inner, _| Json::Array(vec![inner])),
        _ => panic!("{name} is none of $text, $list, $nest"),
    }
}

fn brief(text: &str) -> String {
    match text.char_indices().nth(600) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
