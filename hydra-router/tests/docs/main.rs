//! What README.md and docs/*.md show is run: every shell snippet, against the real programs, with the results it states.
//!
//! A fence that begins with ```` ```sh ```` is run from top to bottom, page by page in a directory of its own; one that
//! cannot be run says so, and why: ```` ```sh (not run: needs a spare disk) ````. What a page needs beside its snippets
//! stands in the Markdown where it is needed, where readers do not see it: `<!-- sh`, commands, `-->`. Tables of TOML
//! whose first line is `# NAME.toml` become that file. Ports of this machine are exchanged for free ones.
//!
//! `hydra-server` is taken from beside `hydra-router`; `cargo build -p hydra-server` makes it fresh.

/// What a comment behind a command claims, and whether that is so.
mod claims;
/// From the text of a page to what is to be done.
mod markdown;
/// Bash, the programs, and free ports.
mod shell;

use std::path::{Path, PathBuf};

use markdown::{Page, Step};

/// README.md and every page of docs.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let docs = std::fs::read_dir(root.join("docs")).expect("docs").flatten().map(|entry| entry.path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect();
    pages.push(root.join("README.md"));
    pages.sort();
    pages
}

fn read(path: &Path) -> Page {
    let text = std::fs::read_to_string(path).expect("a page");
    Page::parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

#[test]
fn every_snippet_runs_and_does_what_is_said() {
    let (mut shown, mut wrong) = (0, Vec::new());
    for path in pages() {
        let page = read(&path);
        shown += page.steps.iter().filter(|step| matches!(step, Step::Run(command) if !command.is_hidden)).count();
        if let Err(why) = shell::run(&page) {
            wrong.push(format!("{}:{why}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(shown >= 60, "only {shown} commands were found");
}

#[test]
fn no_request_is_shown_where_it_would_not_be_run() {
    for path in pages() {
        for (line, info, text) in markdown::fences(&std::fs::read_to_string(&path).expect("a page")) {
            let shows_request =
                text.lines().any(|line| line.trim_start().trim_start_matches("$ ").starts_with("curl "));
            let place = format!("{}:{line}", path.display());
            assert!(
                !shows_request || info.starts_with("sh"),
                "{place}: a request in a fence that is not run: {info:?}"
            );
            if let Some(reason) = info.strip_prefix("sh ") {
                let reason = reason.strip_prefix("(not run: ").and_then(|reason| reason.strip_suffix(')'));
                assert!(reason.is_some_and(|reason| reason.len() > 10), "{place}: not run, and no reason: ```{info}");
            }
        }
    }
}
