//! Bash, the programs, and free ports.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::claims::{Outcome, check};
use crate::markdown::{Page, Step};

/// How long one page may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// Stands before curl: tells the status, and ends what has no end.
const CURL: &str = r#"#!/usr/bin/env bash
limit=()
for argument in "$@"; do
    case "$argument" in
        -N) limit=(--max-time 2) is_stream=1 ;;
    esac
done
REAL -sS -w '%{stderr}\nstatus %{http_code}\n' "${limit[@]}" "$@"
code=$?
[ "$code" = 28 ] && [ -n "$is_stream" ] && exit 0
exit "$code"
"#;

/// What a page is run by: each command in the same shell, so that variables stay.
const PROLOGUE: &str = r#"
begun() { for _ in $(seq 200); do grep -q 'listening on' "../steps/$1.out" && return; sleep 0.05; done; echo 'it does not listen' >>"../steps/$1.err"; false; }
do_step() { { eval "$(cat "../steps/$1.sh")"; } >"../steps/$1.out" 2>"../steps/$1.err" </dev/null; }
done_step() { echo "$2" >"../steps/$1.code"; [ "$2" = 0 ] || exit 0; }
"#;

/// Runs a page, and holds what came of it against what is said.
///
/// # Errors
/// The first command that did something else, with its line.
pub(crate) fn run(page: &Page) -> Result<(), String> {
    let place = Place::new();
    let ports = Ports::of(page);
    let mut script = PROLOGUE.to_owned();
    for (index, step) in page.steps.iter().enumerate() {
        match step {
            Step::File { name, text } => {
                place.write(&format!("steps/{index}.file"), &ports.exchange(text), &mut script, name)
            }
            Step::Run(command) => {
                fs::write(place.step(index, "sh"), ports.exchange(&command.text)).expect("a script");
                let is_server = command.text.ends_with('&')
                    && (command.text.starts_with("hydra-server") || command.text.contains("hydra-router serve"));
                let begun = if is_server { format!(" && begun {index}") } else { String::new() };
                writeln!(script, "do_step {index}{begun}; done_step {index} $?").expect("written");
            }
        }
    }
    place.bash(&script);
    for (index, step) in page.steps.iter().enumerate() {
        let Step::Run(command) = step else { continue };
        let outcome = place.outcome(index);
        if let Err(why) = check(&command.text, &command.comments, &outcome) {
            let errors = fs::read_to_string(place.step(index, "err")).unwrap_or_default();
            let (at, text, said, out) = (command.line, &command.text, &command.comments, &outcome.out);
            return Err(format!("{at}: {why}\n{text}\nsaid: {said:?}\nout: {out}\nerr: {errors}"));
        }
    }
    Ok(())
}

/// Directories and programs for one page; whatever was started is gone when this is dropped.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = TempDir::new().expect("a directory");
        for name in ["work", "steps", "bin"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        let place = Place { dir };
        let router = PathBuf::from(env!("CARGO_BIN_EXE_hydra-router"));
        let server = router.with_file_name("hydra-server");
        assert!(server.exists(), "there is no {}; build it with: cargo build -p hydra-server", server.display());
        for program in [router, server] {
            let name = program.file_name().expect("a name");
            std::os::unix::fs::symlink(&program, place.dir.path().join("bin").join(name)).expect("a link");
        }
        let curl = place.dir.path().join("bin/curl");
        fs::write(&curl, CURL.replace("REAL", &real("curl"))).expect("a script");
        fs::set_permissions(&curl, fs::Permissions::from_mode(0o755)).expect("a program");
        place
    }

    fn step(&self, index: usize, kind: &str) -> PathBuf {
        self.dir.path().join("steps").join(format!("{index}.{kind}"))
    }

    /// Writes a file that the script puts in its place when it is its turn.
    fn write(&self, from: &str, text: &str, script: &mut String, name: &str) {
        fs::write(self.dir.path().join(from), text).expect("a file");
        writeln!(script, "cp ../{from} {name}").expect("written");
    }

    /// Runs a script to its end, and ends whatever it left running.
    fn bash(&self, script: &str) {
        let bin = self.dir.path().join("bin");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HYDRA_")) {
            command.env_remove(name);
        }
        command.args(["-c", script]).env("PATH", path).current_dir(self.dir.path().join("work"));
        let child = command.stdin(Stdio::null()).process_group(0).spawn().expect("bash starts");
        let mut group = Group(child);
        let until = Instant::now() + PATIENCE;
        while group.0.try_wait().expect("it can be waited for").is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn outcome(&self, index: usize) -> Outcome {
        let read = |kind| fs::read(self.step(index, kind)).map(|text| String::from_utf8_lossy(&text).into_owned());
        let errors = read("err").unwrap_or_default();
        Outcome {
            code: read("code").ok().and_then(|code| code.trim().parse().ok()),
            out: read("out").unwrap_or_default(),
            statuses: errors.lines().filter_map(|line| line.strip_prefix("status ")?.parse().ok()).collect(),
        }
    }
}

/// A shell and all that it started.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

/// Where a program of this machine is.
fn real(program: &str) -> String {
    let path = std::env::var_os("PATH").expect("a PATH");
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{program} is not installed")).display().to_string()
}

/// For every port that a page names on this machine a free one.
struct Ports(BTreeMap<String, String>);

const HOSTS: [&str; 2] = ["127.0.0.1:", "localhost:"];

impl Ports {
    fn of(page: &Page) -> Ports {
        let texts = page.steps.iter().map(|step| match step {
            Step::Run(command) => &command.text,
            Step::File { text, .. } => text,
        });
        let mut named: Vec<&str> = texts.flat_map(|text| HOSTS.iter().flat_map(|host| named(text, host))).collect();
        named.sort_unstable();
        named.dedup();
        // All at once, so that no two are the same.
        let free: Vec<TcpListener> = named.iter().map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let of = |listener: &TcpListener| listener.local_addr().expect("an address").port().to_string();
        Ports(named.iter().map(|port| (*port).to_owned()).zip(free.iter().map(of)).collect())
    }

    fn exchange(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (port, free) in &self.0 {
            for host in HOSTS {
                // Marked, so that a free port that is named elsewhere is not exchanged once more.
                text = text.replace(&format!("{host}{port}"), &format!("{host}\u{0}{free}"));
            }
        }
        text.replace('\u{0}', "")
    }
}

/// The ports that stand behind a host.
fn named<'t>(text: &'t str, host: &str) -> Vec<&'t str> {
    let behind = text.match_indices(host).map(|(at, _)| &text[at + host.len()..]);
    let digits = |rest: &'t str| &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())];
    behind.map(digits).filter(|port| port.len() >= 4).collect()
}
