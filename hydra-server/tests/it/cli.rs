//! The command line: flags, settings, exit codes, and the commands that need no server.

use std::process::{Command, Output};

use crate::support::{Process, program};

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn a_server_says_where_it_listens_and_how_to_try_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Process::start(dir.path(), &["--id", "s1", "--folders", "7-9", "--standby", "50-99"]);
    let greeting = &server.greeting;
    let address = server.target.0;
    assert!(greeting.contains(&format!("hydra-server s1 listening on http://{address}")), "{greeting}");
    assert!(greeting.contains("folders 7-9 of 100, copies of 50-99"), "{greeting}");
    let curl =
        greeting.lines().find(|line| line.starts_with("try: ")).expect("a line to try").trim_start_matches("try: ");
    let output = Command::new("sh").args(["-c", curl]).output().expect("sh runs");
    // Where there is no curl the line cannot be tried.
    if output.status.success() {
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"created\":true"), "{curl}: {output:?}");
    }
}

#[test]
fn serve_can_be_written_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut child =
        program().args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path()).spawn().expect("starts");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().expect("waits").is_none(), "it serves");
    child.kill().expect("killed");
    child.wait().expect("gone");
}

#[test]
fn listening_beyond_this_machine_needs_to_be_meant() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = ["--listen", "0.0.0.0:0", "--data"];
    let (code, _, stderr) = run(program().args(open).arg(dir.path()));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--insecure-no-auth") && stderr.contains("token new"), "{stderr}");
    assert!(std::fs::read_dir(dir.path()).expect("readable").next().is_none(), "nothing was created");
    let mut child = program().args(open).arg(dir.path()).arg("--insecure-no-auth").spawn().expect("starts");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().expect("waits").is_none(), "it serves");
    child.kill().expect("killed");
    child.wait().expect("gone");
}

#[test]
fn flags_that_do_not_exist_are_exit_2() {
    for flags in
        [&["--nonsense"][..], &["--listen", "nowhere"], &["--folders", "9-1"], &["--folders-total", "0"], &["jump"]]
    {
        let (code, _, stderr) = run(program().args(flags));
        assert_eq!(code, Some(2), "{flags:?}");
        assert!(!stderr.is_empty());
    }
    for unusable in [
        &["--tokens", "/nonexistent"][..],
        &["--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"],
        &["--tls-cert", "/nonexistent"],
        &["--tls-key", "/nonexistent"],
        &["--allow-origin", "*"],
    ] {
        let (code, _, stderr) = run(program().args(unusable));
        assert_eq!(code, Some(2), "{unusable:?}");
        assert!(stderr.contains(unusable[0]) || stderr.contains("/nonexistent"), "{stderr}");
    }
    let (code, stdout, _) = run(program().arg("--help"));
    assert_eq!(code, Some(0));
    for flag in
        ["--data", "--listen", "--id", "--cluster", "--folders-total", "--folders", "--standby", "--copied", "--pool"]
    {
        assert!(stdout.contains(flag), "{flag}");
    }
}

#[test]
fn the_file_of_settings_is_below_variables_and_flags_and_refuses_what_it_does_not_know() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("hydra.toml");
    let data = dir.path().join("data");
    let settings =
        format!("data = {:?}\nid = \"file\"\nfolders_total = 8\npool = \"file\"\nlisten = \"127.0.0.1:0\"\n", data);
    std::fs::write(&file, &settings).expect("written");
    let output = {
        let mut child = program()
            .arg("--config")
            .arg(&file)
            .args(["--id", "flag"])
            .env("HYDRA_ID", "variable")
            .env("HYDRA_POOL", "variable")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        let mut out = std::io::BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
        let target = crate::support::Target(address.parse().expect("an address"));
        let probe = target.get("/v1/probe").json();
        child.kill().expect("killed");
        child.wait().expect("gone");
        probe
    };
    assert_eq!(
        (&output["server"], &output["pool"], &output["folders"]),
        (&"flag".into(), &"variable".into(), &8.into())
    );
    std::fs::write(&file, format!("{settings}folder = \"0-3\"\n")).expect("written");
    let (code, _, stderr) = run(program().arg("--config").arg(&file));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("line 6") && stderr.contains("folder"), "{stderr}");
}

#[test]
fn a_data_directory_keeps_its_folder_count_and_its_one_server() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Process::start(dir.path(), &["--folders-total", "10"]);
    let again = |flags: &[&str]| run(program().args(["--listen", "127.0.0.1:0", "--data"]).arg(dir.path()).args(flags));
    let (code, _, stderr) = again(&[]);
    assert_eq!(code, Some(5), "{stderr}");
    server.kill();
    let (code, _, stderr) = again(&["--folders-total", "20"]);
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.contains("10") && stderr.contains("20"), "{stderr}");
}

#[test]
fn resolve_is_the_arithmetic_of_every_client() {
    let (code, stdout, _) = run(program().args(["resolve", "users/profiles/alice", "--output", "json"]));
    let place: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, &place["hash"], &place["folder"]), (Some(0), &"7127deecab868c52".into(), &62.into()));
    let found = run(program().args([
        "resolve",
        "--find",
        "jobs/queue/mail",
        "--in",
        "50-74",
        "--count",
        "3",
        "--output",
        "ndjson",
    ]))
    .1;
    let folders: Vec<u64> = found
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["folder"].as_u64().expect("a number")
        })
        .collect();
    assert!(folders.len() == 3 && folders.iter().all(|folder| (50..75).contains(folder)), "{found}");
    for bad in [
        &["resolve", "a/b"][..],
        &["resolve"],
        &["resolve", "--find", "a/b/c"],
        &["resolve", "--find", "a/b/c", "--in", "100"],
    ] {
        assert_eq!(run(program().args(bad)).0, Some(2), "{bad:?}");
    }
}

#[test]
fn verify_passes_whole_data_and_fails_on_damage() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Process::start(dir.path(), &[]);
    for key in 0..20 {
        server.target.put(&format!("/v1/kv/a/b/c/k{key}"), "\"some value\"");
    }
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let verify = |output: &str| run(program().args(["verify", "--output", output, "--data"]).arg(dir.path()));
    let (code, stdout, stderr) = verify("json");
    let report: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, &report["swamps"], &report["files"]), (Some(0), &1.into(), &1.into()), "{stderr}");
    assert_eq!(verify("table").0, Some(0));

    let place = run(program().args(["resolve", "a/b/c", "--output", "json"])).1;
    let place: serde_json::Value = serde_json::from_str(&place).expect("JSON");
    let swamp = dir.path().join(place["path"].as_str().expect("a path"));
    let (code, stdout, _) = run(program().arg("inspect").arg(&swamp));
    assert!(code == Some(0) && stdout.lines().count() > 1, "{stdout}");
    assert!(stdout.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{stdout}");

    let file = std::fs::read_dir(&swamp).expect("the swamp").next().expect("a file").expect("readable").path();
    let mut bytes = std::fs::read(&file).expect("readable");
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).expect("writable");
    let (code, stdout, stderr) = verify("ndjson");
    assert_eq!(code, Some(1), "{stdout} {stderr}");
    assert!(stdout.lines().next().expect("a finding").contains("problem"), "{stdout}");
    assert_eq!(run(program().args(["verify", "--data", "/nonexistent"])).0, Some(3));
    assert_eq!(run(program().args(["inspect", "/nonexistent"])).0, Some(3));
}
