//! `sync` between real servers, with the real rsync.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hydra_core::wire::treasure_path;
use hydra_core::{EngineOptions, FolderCount, SwampName, folder_of, swamp_dir};
use hydra_router::Config;
use hydra_sdk::ClientMap;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Node, Router, Run, file, name_in, nobody, program};

/// Whether rsync is here. Where nothing may be skipped, it has to be.
fn has_rsync() -> bool {
    let is_here = Command::new("rsync").arg("--version").output().is_ok();
    if !is_here {
        assert!(std::env::var_os("CI").is_none(), "rsync is not installed");
        println!("skipped: rsync is not installed");
    }
    is_here
}

/// Two servers that know of no copies, and a map that says where their directories are.
struct Pair {
    s1: Node,
    s2: Node,
    _map_dir: TempDir,
    map: PathBuf,
}

impl Pair {
    fn start() -> Pair {
        Pair::start_with("")
    }

    /// With more lines in the map.
    fn start_with(client: &str) -> Pair {
        let s1 = Node::start_with("s1", owner);
        let s2 = Node::start_with("s2", |options| {
            options.owned = Some("50-99".parse().expect("folders"));
            options.standby = "0-49".parse().expect("folders");
        });
        let text = map_text((s1.url(), s1.dir().display()), (s2.url(), s2.dir().display()));
        let (map_dir, map) = file(&format!("{text}{client}"));
        Pair { s1, s2, _map_dir: map_dir, map }
    }

    fn sync(&self, flags: &[&str]) -> Run {
        Run::of(&mut self.command(flags))
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = program();
        command.args(["sync", "--map"]).arg(&self.map).args(flags);
        command
    }

    fn stop(&mut self) {
        self.s1.stop();
        self.s2.stop();
    }
}

/// What s1 is.
fn owner(options: &mut EngineOptions) {
    options.owned = Some("0-49".parse().expect("folders"));
}

fn map_text(s1: (&str, impl std::fmt::Display), s2: (&str, impl std::fmt::Display)) -> String {
    format!(
        "folders = 100\n[servers]\ns1 = {{ url = \"{}\", sync = \"{}\" }}\ns2 = {{ url = \"{}\", sync = \"{}\" }}\n\
         [[route]]\nfolders = \"0-49\"\nprimary = \"s1\"\nfallbacks = [\"s2\"]\n\
         [[route]]\nfolders = \"50-99\"\nprimary = \"s2\"\n",
        s1.0, s1.1, s2.0, s2.1
    )
}

const S1_TO_S2: [&str; 4] = ["--from", "s1", "--to", "s2"];

fn files(run: &Run) -> u64 {
    run.json()["files"].as_u64().unwrap_or_else(|| panic!("{run:?}"))
}

/// Every chunk below a directory, from there.
fn chunks(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            match entry.is_dir() {
                true if entry.ends_with(".hydra") => {}
                true => dirs.push(entry),
                false if entry.ends_with("HYDRA") => {}
                false => found.push(entry.strip_prefix(dir).expect("below").to_owned()),
            }
        }
    }
    found.sort();
    found
}

fn written_by(chunks: &[PathBuf], server: &str) -> usize {
    let is_its = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(server));
    chunks.iter().filter(is_its).count()
}

/// The same content at both.
fn assert_same(path: &Path, a: &Path, b: &Path) {
    let read = |dir: &Path| fs::read(dir.join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(read(a) == read(b), "{} differs", path.display());
}

#[test]
fn a_sync_adds_what_one_server_wrote_and_nothing_else() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start();
    let (mine, theirs) = (name_in("0-49", "a/b/c"), name_in("50-99", "a/b/c"));
    pair.s1.ask("PUT", &format!("{}?sync=true", treasure_path(&mine, "k")), "\"one\"");
    pair.s2.ask("PUT", &format!("{}?sync=true", treasure_path(&theirs, "k")), "\"two\"");
    // A copy of somebody else's file is not this server's to pass on.
    let third = swamp_dir(folder_of(&mine, FolderCount::DEFAULT), &mine).join("s3-0000000000001-0001.hyl");
    fs::write(pair.s1.dir().join(&third), "of s3").expect("a file");
    fs::write(pair.s1.dir().join("00001-notes.txt"), "no chunk").expect("a file");

    let table = pair.sync(&S1_TO_S2);
    assert_eq!(table.code, Some(0), "{table:?}");
    let command = table.out.lines().next().expect("the command");
    assert!(
        command.starts_with("rsync -a --append-verify ") && command.contains("'--include=s1-*.hy[ls]'"),
        "{command}"
    );
    assert!(table.out.contains("s1 -> s2: 1 file, "), "{table:?}");
    let at_s2 = chunks(pair.s2.dir());
    assert_eq!((written_by(&at_s2, "s1-"), written_by(&at_s2, "s2-"), at_s2.len()), (1, 1, 2), "{at_s2:?}");
    assert_eq!(written_by(&chunks(pair.s1.dir()), "s2-"), 0, "nothing goes the other way");
    let seen = pair.s2.ask("GET", &treasure_path(&mine, "k"), "");
    assert_eq!((seen.text().as_str(), seen.header("hydra-served-by")), ("\"one\"", Some("fallback")));

    // The printed command does the same, and there is nothing left to do.
    let again = Command::new("sh").args(["-c", command]).output().expect("runs");
    assert!(String::from_utf8_lossy(&again.stdout).contains("Number of regular files transferred: 0"), "{again:?}");
    pair.s1.ask("PUT", &format!("{}?sync=true", treasure_path(&mine, "l")), "\"more\"");
    assert_eq!(files(&pair.sync(&[&S1_TO_S2[..], &["--output", "json"]].concat())), 1, "the file has grown");

    let all = pair.sync(&[&S1_TO_S2[..], &["--all-writers", "--output", "json"]].concat());
    assert_eq!(files(&all), 1, "{all:?}");
    assert!(pair.s2.dir().join(&third).exists() && !pair.s2.dir().join("00001-notes.txt").exists());
    pair.stop();
    assert_eq!(pair.sync(&S1_TO_S2).code, Some(0), "servers that do not run are synced as well");
    for chunk in chunks(pair.s1.dir()).iter().filter(|chunk| chunk.extension().is_some_and(|known| known == "hyl")) {
        assert_same(chunk, pair.s1.dir(), pair.s2.dir());
    }
}

#[test]
fn a_longer_file_is_kept_and_a_shorter_one_is_continued() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start();
    for name in name_in("0-49", "a/b/c").in_folders(&"0-49".parse().expect("folders"), FolderCount::DEFAULT).take(2) {
        pair.s1.ask("PUT", &format!("{}?sync=true", treasure_path(&name, "k")), "\"value\"");
    }
    pair.stop();
    assert_eq!(files(&pair.sync(&[&S1_TO_S2[..], &["--output", "json"]].concat())), 2);
    let written = chunks(pair.s1.dir());
    let (longer, shorter) = (pair.s2.dir().join(&written[0]), pair.s2.dir().join(&written[1]));
    let mut grown = fs::read(&longer).expect("a copy");
    grown.extend(b"what s1 lost when its disk was put back");
    fs::write(&longer, &grown).expect("longer");
    fs::File::options().write(true).open(&shorter).expect("a copy").set_len(10).expect("shorter");
    let run = pair.sync(&S1_TO_S2);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(fs::read(&longer).expect("still there"), grown, "bytes that only the receiver has are kept");
    assert_same(&written[1], pair.s1.dir(), pair.s2.dir());
}

#[test]
fn only_the_folders_asked_for_are_copied_and_a_dry_run_copies_none() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start();
    let names: Vec<SwampName> = ["0-9", "10-19", "20-49"].map(|folders| name_in(folders, "a/b/c")).into();
    for name in &names {
        pair.s1.ask("PUT", &treasure_path(name, "k"), "1");
    }
    pair.s1.ask("POST", "/v1/flush", "");
    let dry = pair.sync(&[&S1_TO_S2[..], &["--dry-run", "--output", "json"]].concat());
    assert_eq!((files(&dry), dry.json()["dryRun"].as_bool()), (3, Some(true)), "{dry:?}");
    assert!(chunks(pair.s2.dir()).is_empty());
    assert_eq!(pair.s1.ask("GET", "/v1/folders/0", "").json()["folders"][0]["copied"], false, "nothing is noted");
    let some = pair.sync(&[&S1_TO_S2[..], &["--folders", "0-9,20-49", "--output", "json"]].concat());
    assert_eq!((files(&some), some.json()["folders"].as_str()), (2, Some("0-9,20-49")), "{some:?}");
    let copied = |name: &SwampName| pair.s2.dir().join(swamp_dir(folder_of(name, FolderCount::DEFAULT), name)).exists();
    assert!(copied(&names[0]) && !copied(&names[1]) && copied(&names[2]));
    // By default it is what a route gives to both: s2's own folders are not s1's to copy.
    let all = pair.sync(&[&S1_TO_S2[..], &["--output", "json"]].concat());
    assert_eq!((files(&all), all.json()["folders"].as_str()), (1, Some("0-49")), "{all:?}");
    pair.stop();
}

#[test]
fn both_servers_know_for_ever_that_the_folders_are_copied() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start();
    let copied = |node: &Node, folder: u32| {
        node.ask("GET", &format!("/v1/folders/{folder}"), "").json()["folders"][0]["copied"] == true
    };
    assert!(!copied(&pair.s1, 7));
    assert_eq!(pair.sync(&[&S1_TO_S2[..], &["--folders", "7"]].concat()).code, Some(0));
    assert!(copied(&pair.s1, 7) && !copied(&pair.s1, 8) && copied(&pair.s2, 7));
    pair.stop();
    // Of servers that do not run, the directory is told.
    assert_eq!(pair.sync(&[&S1_TO_S2[..], &["--folders", "9"]].concat()).code, Some(0));
    for node in [&pair.s1, &pair.s2] {
        let noted = fs::read_to_string(node.dir().join(".hydra/folders.json")).expect("a note");
        assert!(noted.contains("7,9"), "{noted}");
    }
}

#[test]
fn a_directory_that_is_not_the_map_s_is_refused() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start();
    let name = name_in("0-49", "a/b/c");
    pair.s1.ask("PUT", &format!("{}?sync=true", treasure_path(&name, "k")), "1");
    let refused = |flags: &[&str], because: &str| {
        let run = pair.sync(&[&S1_TO_S2[..], flags].concat());
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.err.contains(because), "{because:?} in {run:?}");
    };
    let (s1, s2) = (pair.s1.dir().display().to_string(), pair.s2.dir().display().to_string());
    refused(&["--from-dir", &s2], "is of the server \"s2\", the map says \"s1\": nothing was copied");
    refused(&["--to-dir", &s1], "is of the server \"s1\", the map says \"s2\"");
    let empty = TempDir::new().expect("a directory");
    refused(&["--from-dir", &empty.path().display().to_string()], "does not say that it is of the server \"s1\"");
    refused(&["--from-dir", "h1:/a", "--to-dir", "h2:/b"], "are both on other machines");
    refused(&["--folders", "99-100"], "--folders");
    refused(&["--folders", "50-99", "--settle"], "s1 is a fallback of s2 in none of the folders");
    refused(&["--every", "0s"], "--every");
    let same = pair.sync(&["--from", "s1", "--to", "s1"]);
    assert_eq!(same.code, Some(2), "{same:?}");
    let unknown = pair.sync(&["--from", "s1", "--to", "s9"]);
    assert!(unknown.code == Some(2) && unknown.err.contains("no server \"s9\""), "{unknown:?}");
    let missing = Run::of(pair.command(&S1_TO_S2).env("PATH", "/nowhere"));
    assert!(missing.code == Some(5) && missing.err.contains("rsync is not installed"), "{missing:?}");

    let other =
        fs::read_to_string(&pair.map).expect("the map").replace("folders = 100", "folders = 100\ncluster = \"blue\"");
    let (_dir, other) = file(&other);
    let run = Run::of(program().args(["sync", "--map"]).arg(&other).args(S1_TO_S2));
    assert!(run.code == Some(2) && run.err.contains("the cluster \"hydra\", the map says \"blue\""), "{run:?}");
    let (_dir, silent) = file(
        "folders = 100\n[servers]\ns1 = { url = \"http://h:1\" }\ns2 = { url = \"http://h:2\" }\n\
        [[route]]\nfolders = \"0-99\"\nprimary = \"s1\"\nfallbacks = [\"s2\"]\n",
    );
    let run = Run::of(program().args(["sync", "--map"]).arg(&silent).args(S1_TO_S2));
    assert!(run.code == Some(2) && run.err.contains("sync = \"user@host:/path\""), "{run:?}");
    assert_eq!(written_by(&chunks(pair.s2.dir()), "s1-"), 0, "nothing was copied by any of them");
    pair.stop();
}

/// A directory with an executable script.
fn script(name: &str, text: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join(name);
    let mut file = fs::File::create(&path).expect("a script");
    file.write_all(text.as_bytes()).expect("written");
    file.set_permissions(fs::Permissions::from_mode(0o755)).expect("executable");
    drop(file);
    (dir, path)
}

#[test]
fn another_machine_is_asked_who_it_is_first() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start();
    let name = name_in("0-49", "a/b/c");
    pair.s1.ask("PUT", &format!("{}?sync=true", treasure_path(&name, "k")), "1");
    // In place of ssh: what would run over there runs here.
    let (_dir, shell) = script("shell", "#!/bin/sh\nwhile [ \"$1\" != rsync ]; do shift; done\nexec \"$@\"\n");
    let remote = |dir: &Path| format!("me@other:{}", dir.display());
    let wrong = Run::of(pair.command(&S1_TO_S2).args(["--from-dir", &remote(pair.s2.dir())]).env("RSYNC_RSH", &shell));
    assert!(wrong.code == Some(2) && wrong.err.contains("is of the server \"s2\""), "{wrong:?}");
    let right = Run::of(pair.command(&S1_TO_S2).args(["--from-dir", &remote(pair.s1.dir())]).env("RSYNC_RSH", &shell));
    assert_eq!(right.code, Some(0), "{right:?}");
    assert_eq!(written_by(&chunks(pair.s2.dir()), "s1-"), 1);
    let (_dir, closed) = script("closed", "#!/bin/sh\nexit 255\n");
    let away = Run::of(pair.command(&S1_TO_S2).args(["--from-dir", &remote(pair.s1.dir())]).env("RSYNC_RSH", &closed));
    assert!(away.code == Some(1) && away.err.contains("rsync ended with"), "{away:?}");
    // A server elsewhere that does not run cannot be told that its folders are copied.
    pair.stop();
    let told = Run::of(pair.command(&S1_TO_S2).args(["--from-dir", &remote(pair.s1.dir())]).env("RSYNC_RSH", &shell));
    assert!(told.code == Some(0) && told.out.contains("warning: s1 does not answer"), "{told:?}");
}

/// An rsync that ends with these codes first, and is the real one afterwards.
fn failing_first(codes: &str) -> (TempDir, String) {
    let (dir, path) = script(
        "rsync",
        &format!(
            "#!/bin/sh\nn=$(cat \"$0.n\" 2>/dev/null || echo 0)\necho $((n + 1)) > \"$0.n\"\nset -- $n \"$@\"\n\
             for code in {codes}; do [ $1 -eq 0 ] && exit $code; n=$(($1 - 1)); shift; set -- $n \"$@\"; done\n\
             shift\nPATH=${{PATH#*:}} exec rsync \"$@\"\n"
        ),
    );
    let path = format!("{}:{}", path.parent().expect("a directory").display(), std::env::var("PATH").expect("a path"));
    (dir, path)
}

#[test]
fn files_that_go_while_they_are_copied_are_no_failure() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start();
    pair.s1.ask("PUT", &format!("{}?sync=true", treasure_path(&name_in("0-49", "a/b/c"), "k")), "1");
    let sync = |path: &str| Run::of(pair.command(&S1_TO_S2).args(["--output", "json"]).env("PATH", path));
    let (_dir, path) = failing_first("24");
    let once = sync(&path);
    assert_eq!((once.code, files(&once), once.json()["vanished"].as_bool()), (Some(0), 1, Some(false)), "{once:?}");
    let (_dir, path) = failing_first("24 24");
    let twice = sync(&path);
    assert_eq!((twice.code, twice.json()["vanished"].as_bool()), (Some(0), Some(true)), "{twice:?}");
    let (_dir, path) = failing_first("23");
    let partial = sync(&path);
    assert!(partial.code == Some(1) && partial.err.contains("rsync ended with 23: some files"), "{partial:?}");
    pair.stop();
}

#[test]
fn again_and_again_goes_on_after_an_error_until_it_is_told_to_stop() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start();
    let write = |key: &str| {
        let path = treasure_path(&name_in("0-49", "a/b/c"), key);
        pair.s1.ask("PUT", &format!("{path}?sync=true"), "1");
    };
    write("k");
    let (_dir, path) = failing_first("12");
    let mut command = pair.command(&S1_TO_S2);
    command.args(["--every", "100ms", "--output", "ndjson"]).env("PATH", path);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let arrives = |count: u64| {
        let begun = Instant::now();
        let length = || {
            let found = chunks(pair.s2.dir());
            found.iter().filter_map(|chunk| fs::metadata(pair.s2.dir().join(chunk)).ok()).map(|file| file.len()).sum()
        };
        let before: u64 = length();
        while length() <= before.max(count) {
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing came");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    arrives(0);
    write("l");
    arrives(1);
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
    let run = Run::from(child.wait_with_output().expect("it ends"));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.err.contains("rsync ended with 12") && run.err.contains("trying again in 100ms"), "{run:?}");
    let report = run.out.lines().next().expect("a report");
    assert_eq!(serde_json::from_str::<Value>(report).expect("JSON")["files"], 1, "{run:?}");
    pair.stop();
}

#[test]
fn a_server_that_is_somebody_else_is_not_told_anything() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start();
    let text = map_text((pair.s2.url(), pair.s1.dir().display()), (&nobody(), pair.s2.dir().display()));
    let (_dir, map) = file(&text);
    let run = Run::of(program().args(["sync", "--map"]).arg(&map).args(S1_TO_S2));
    assert!(run.code == Some(1) && run.err.contains("is \"s2\", the map says \"s1\""), "{run:?}");
    pair.stop();
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// s1 goes, s2 takes writes for it, s1 comes back without them.
fn taken_over(pair: &mut Pair) -> (Router, SwampName) {
    let router = Router::start(ClientMap::from_file(&pair.map).expect("a map"), Config::default());
    let name = name_in("0-49", "a/b/c");
    let path = |key: &str| format!("{}?sync=true", treasure_path(&name, key));
    assert_eq!(router.put(&path("k"), "1").server(), Some("s1"));
    assert_eq!(pair.sync(&S1_TO_S2).code, Some(0));
    pair.s1.stop();
    let put = router.put(&path("k"), "2");
    assert_eq!((put.server(), put.header("hydra-takeover")), (Some("s2"), Some("1")), "{put:?}");
    pair.s1.revive(owner);
    (router, name)
}

const HASTY: &str = "[client]\nhold_down = \"200ms\"\n";

#[test]
fn a_router_stays_with_the_fallback_until_its_files_are_at_the_primary() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start_with(HASTY);
    let (router, name) = taken_over(&mut pair);
    let path = treasure_path(&name, "k");
    // The primary knows the swamp as it was, so only looking again shows what comes.
    assert_eq!(pair.s1.ask("GET", &path, "").text(), "1");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        let got = router.get(&path);
        assert_eq!((got.server(), got.text().as_str()), (Some("s2"), "2"), "nothing was copied back");
        std::thread::sleep(Duration::from_millis(20));
    }
    let counter = format!("{}?incr=1&sync=true", treasure_path(&name, "n"));
    assert_eq!(router.post(&counter, "").server(), Some("s2"), "writes stay as well");
    assert_eq!(pair.sync(&["--from", "s2", "--to", "s1"]).code, Some(0));
    let mut got = router.get(&path);
    until("the folder returns", || {
        assert_eq!(got.text(), "2", "whoever answers has it: {got:?}");
        got = router.get(&path);
        got.server() == Some("s1")
    });
    assert_eq!((got.text().as_str(), got.header("hydra-takeover")), ("2", None), "the first answer has it");
    assert_eq!(router.post(&counter, "").json()["value"], 2);
    let folder = folder_of(&name, FolderCount::DEFAULT);
    assert_eq!(pair.s2.ask("GET", &format!("/v1/folders/{folder}/takeover"), "").json()["count"], 0);
    drop(router);
    pair.stop();
}

#[test]
fn a_sync_settles_what_was_taken_over() {
    if !has_rsync() {
        return;
    }
    let mut pair = Pair::start_with(&format!("{HASTY}failback = \"manual\"\n"));
    let (router, name) = taken_over(&mut pair);
    let folder = folder_of(&name, FolderCount::DEFAULT);
    let back = ["--from", "s2", "--to", "s1", "--settle", "--output", "json"];
    // An rsync that copies nothing, also when the folder takes no writes: what is missing is not settled.
    let (_dir, path) = failing_first("0 0");
    let early = Run::of(pair.command(&back).env("PATH", path));
    assert_eq!(early.code, Some(1), "{early:?}");
    let takeover = &early.json()["takeovers"][0];
    assert_eq!((takeover["folder"].as_u64(), takeover["missing"].as_u64()), (Some(folder.get().into()), Some(1)));
    assert!(early.err.contains("1 folder could not be settled"), "{early:?}");
    let settled = pair.sync(&back);
    assert_eq!(settled.code, Some(0), "{settled:?}");
    assert_eq!(settled.json()["takeovers"][0]["settled"], true);
    assert!(pair.sync(&back).json().get("takeovers").is_none(), "nothing is left");
    assert_eq!(pair.s2.ask("GET", &format!("/v1/folders/{folder}/takeover"), "").json()["count"], 0);
    assert_eq!(pair.s1.ask("GET", &treasure_path(&name, "k"), "").text(), "2");
    drop(router);
    pair.stop();
}
