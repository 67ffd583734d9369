//! Hosts with an address, a clock and a data directory of their own, and what can happen between them.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::ground::{self, command, data_dir, has, run, text, try_run};
use crate::support::{Target, program};

const PORT: u16 = 4937;

/// Whether hosts can be made here.
pub(crate) fn can_make_hosts() -> bool {
    static MADE: LazyLock<bool> = LazyLock::new(|| {
        let probe = format!("hydra-probe-{}", std::process::id());
        let made = try_run("ip", &["netns", "add", &probe]).status.success();
        try_run("ip", &["netns", "del", &probe]);
        made
    });
    has(&["ip", "nft", "faketime", "rsync"])
        && (*MADE || ground::skipped("network namespaces cannot be made (that needs root)"))
}

/// A bridge on which the test itself is a host, with the first address.
#[derive(Debug)]
pub(crate) struct Network {
    number: u32,
}

impl Network {
    pub(crate) fn new() -> Network {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Runs beside this one take other numbers, mostly; a number that is in use makes the next line fail.
        let number = (std::process::id().wrapping_mul(7) + NEXT.fetch_add(1, Ordering::Relaxed)) % 250;
        let network = Network { number };
        let bridge = network.bridge();
        run("ip", &["link", "add", &bridge, "type", "bridge"]);
        run("ip", &["addr", "add", &format!("10.213.{number}.1/24"), "dev", &bridge]);
        run("ip", &["link", "set", &bridge, "up"]);
        network
    }

    fn bridge(&self) -> String {
        format!("hydra{}", self.number)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        try_run("ip", &["link", "del", &self.bridge()]);
    }
}

/// How a host is cut off, or half.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outage {
    /// The cable is pulled: no packet, no answer, no error.
    CablePulled,
    /// A firewall drops what comes for the server: connections that are open fall silent, new ones time out.
    BlackHole,
    /// A firewall rejects what comes for the server.
    Rejecting,
    /// Requests arrive, answers do not.
    AnswersLost,
    /// Of the packets one in five is lost, either way.
    Lossy,
    /// The server is killed, and started again when the outage is over.
    Killed,
    /// Answers are lost for a moment, again and again.
    Flickering,
}

/// One host: a namespace with an address, and a server in it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: &'static str,
    space: String,
    cable: String,
    address: SocketAddr,
    pub(crate) dir: TempDir,
    flags: Vec<&'static str>,
    /// How far its clock is off, in seconds.
    clock: i32,
    server: Mutex<Option<Child>>,
}

impl Host {
    /// A host with a server that owns some folders and keeps copies of others.
    pub(crate) fn new(network: &Network, place: u8, id: &'static str, folders: [&'static str; 2], clock: i32) -> Host {
        let number = network.number;
        let (space, cable) = (format!("hydra-{number}-{id}"), format!("hy{number}{id}"));
        run("ip", &["netns", "add", &space]);
        run("ip", &["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &space]);
        run("ip", &["link", "set", &cable, "master", &network.bridge(), "up"]);
        let address = format!("10.213.{number}.{place}");
        for inside in [
            &["addr", "add", &format!("{address}/24"), "dev", "eth0"][..],
            &["link", "set", "eth0", "up"],
            &["link", "set", "lo", "up"],
        ] {
            run("ip", &[&["-n", &space][..], inside].concat());
        }
        let address = format!("{address}:{PORT}").parse().expect("an address");
        let flags = vec!["--folders", folders[0], "--standby", folders[1]];
        let host = Host { id, space, cable, address, dir: data_dir(), flags, clock, server: Mutex::new(None) };
        host.start();
        host
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The server, without a router or an SDK in between.
    pub(crate) fn target(&self) -> Target {
        Target(self.address)
    }

    fn start(&self) {
        let offset = format!("{:+}s", self.clock);
        let mut wrapped = vec!["netns", "exec", &self.space];
        if self.clock != 0 {
            wrapped.extend(["faketime", "-f", &offset]);
        }
        let binary = program().get_program().to_owned();
        let log = if std::env::var_os("HYDRA_FAULTS_LOG").is_some() { Stdio::inherit() } else { Stdio::null() };
        let address = self.address.to_string();
        let child = command("ip")
            .args(wrapped)
            .arg(binary)
            .args(["--id", self.id, "--data", text(self.dir.path()), "--listen", &address, "--insecure-no-auth"])
            .args(["--copied", "--foreign-poll", "100ms", "--log", "warn"])
            .args(&self.flags)
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("ip starts");
        *self.server.lock().expect("no panic") = Some(child);
        self.wait_until_ready();
    }

    /// Waits until the server answers over the network.
    pub(crate) fn wait_until_ready(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        let is_ready = || self.target().try_send("GET", "/ready", &[], b"").is_ok_and(|ready| ready.status == 200);
        while !(self.connects() && is_ready()) {
            assert!(Instant::now() < until, "{} does not answer", self.id);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connects(&self) -> bool {
        TcpStream::connect_timeout(&self.address, Duration::from_millis(100)).is_ok()
    }

    /// With a clock of its own the server is a child of what gives it that, and would outlive it.
    fn kill(&self) {
        if let Some(mut child) = self.server.lock().expect("no panic").take() {
            kill_process_group(Pid::from_child(&child), Signal::KILL).expect("it can be killed");
            child.wait().expect("it is gone");
            let until = Instant::now() + Duration::from_secs(10);
            while self.connects() {
                assert!(Instant::now() < until, "{} outlives a kill", self.id);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// An outage for a while; over when this returns.
    pub(crate) fn suffer(&self, outage: Outage, time: Duration) {
        match outage {
            Outage::CablePulled => {
                run("ip", &["link", "set", &self.cable, "down"]);
                std::thread::sleep(time);
                run("ip", &["link", "set", &self.cable, "up"]);
            }
            Outage::Killed => {
                self.kill();
                std::thread::sleep(time);
                self.start();
            }
            Outage::BlackHole => self.filtered(&[("input", "tcp dport 4937 drop")], time),
            Outage::Rejecting => self.filtered(&[("input", "tcp dport 4937 reject with tcp reset")], time),
            Outage::AnswersLost => self.filtered(&[("output", "tcp sport 4937 drop")], time),
            Outage::Lossy => {
                let rule = "meta l4proto tcp numgen random mod 100 < 20 drop";
                self.filtered(&[("input", rule), ("output", rule)], time);
            }
            Outage::Flickering => {
                let until = Instant::now() + time;
                while Instant::now() < until {
                    // Only what carries an answer: a connection that can be made is no sign that it comes.
                    let rule = "tcp sport 4937 tcp flags & (psh) == psh drop";
                    self.filtered(&[("output", rule)], Duration::from_millis(60));
                    std::thread::sleep(Duration::from_millis(140));
                }
            }
        }
    }

    /// Rules of a firewall on this host, for a while.
    fn filtered(&self, rules: &[(&str, &str)], time: Duration) {
        let inside = |arguments: &[&str]| {
            run("ip", &[&["netns", "exec", &self.space, "nft"][..], arguments].concat());
        };
        inside(&["add table inet outage"]);
        for (hook, rule) in rules {
            inside(&[&format!("add chain inet outage {hook} {{ type filter hook {hook} priority 0; }}")]);
            inside(&[&format!("add rule inet outage {hook} {rule}")]);
        }
        std::thread::sleep(time);
        inside(&["delete table inet outage"]);
    }

    /// What this server wrote, to another one.
    pub(crate) fn sync_to(&self, other: &Host) {
        let own = format!("--include={}-*.hy[ls]", self.id);
        let (source, target) = (format!("{}/", text(self.dir.path())), format!("{}/", text(other.dir.path())));
        let filter = ["--exclude=/.hydra", "--include=*/", &own, "--exclude=*"];
        let flags = ["-a", "--append-verify", "--prune-empty-dirs"];
        let output = try_run("rsync", &[&flags[..], &filter, &[&source, &target]].concat());
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 23 | 24)), "{code:?} {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        try_run("ip", &["link", "del", &self.cable]);
        try_run("ip", &["netns", "del", &self.space]);
    }
}
