//! A small HTTP load generator: keep-alive connections that send one prepared request after the other.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// What is sent before anything is counted: connections, caches and the guesses of the processor settle.
const WARM_UP: Duration = Duration::from_millis(300);
/// More header lines than any of the servers sends.
const MAX_LINES: usize = 48;

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// For each measurement.
    pub(crate) time: Duration,
}

/// Who is measured: an address, and the processes whose work it is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: String,
    pub(crate) processes: Vec<u32>,
}

/// Requests, made before the clock runs so that the client costs as little as it can.
pub(crate) type Requests = Arc<[Vec<u8>]>;

/// Where a request has these digits, each one that is sent has a number of its own.
pub(crate) const NUMBER: &str = "0000000000000000";

/// What a measurement saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// What a request costs the processor, on the server's side and on that of this client.
    pub(crate) server_cpu: Duration,
    pub(crate) client_cpu: Duration,
}

/// Sends the requests in turn on every connection until the time is over. Any answer but a success ends it all.
pub(crate) async fn run(target: &Target, load: Load, requests: &Requests) -> anyhow::Result<Measured> {
    let counted = Window::after(WARM_UP, load.time);
    let step = requests.len() / load.connections.min(requests.len());
    let tasks: Vec<_> = (0..load.connections)
        .map(|connection| {
            let (address, requests) = (target.address.clone(), Arc::clone(requests));
            tokio::spawn(async move { one_connection(&address, &requests, connection * step, counted).await })
        })
        .collect();
    let client = [std::process::id()];
    sleep_until(counted.from).await;
    let before = (busy(&target.processes)?, busy(&client)?);
    sleep_until(counted.until).await;
    let after = (busy(&target.processes)?, busy(&client)?);
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    ensure!(!times.is_empty(), "nothing was answered in time");
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let each = |busy: Duration| busy.div_f64(times.len() as f64);
    Ok(Measured {
        per_second: times.len() as f64 / load.time.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
        server_cpu: each(after.0.saturating_sub(before.0)),
        client_cpu: each(after.1.saturating_sub(before.1)),
    })
}

/// The time in which answers count.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Instant,
    until: Instant,
}

impl Window {
    fn after(pause: Duration, length: Duration) -> Window {
        let from = Instant::now() + pause;
        Window { from, until: from + length }
    }
}

/// How many requests with a number were sent.
static SENT: AtomicU64 = AtomicU64::new(0);

async fn one_connection(
    address: &str,
    requests: &[Vec<u8>],
    first: usize,
    counted: Window,
) -> anyhow::Result<Vec<Duration>> {
    let mut connection = Connection::open(address).await?;
    let mut times = Vec::new();
    let mut numbered = Vec::new();
    // The same place in all of them.
    let number_at = requests[first].windows(NUMBER.len()).position(|digits| digits == NUMBER.as_bytes());
    let mut now = Instant::now();
    for request in requests.iter().cycle().skip(first) {
        let began = now;
        match number_at {
            None => connection.ask(request).await?,
            Some(at) => {
                numbered.clone_from(request);
                write!(&mut numbered[at..], "{:016x}", SENT.fetch_add(1, Ordering::Relaxed))?;
                connection.ask(&numbered).await?;
            }
        }
        now = Instant::now();
        if now >= counted.until {
            break;
        }
        if now >= counted.from {
            times.push(now - began);
        }
    }
    Ok(times)
}

/// A connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(16 << 10) })
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection");
            }
            if let Some(length) = length_of(&self.buffer)? {
                while self.buffer.len() < length {
                    ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
                }
                ensure!(self.buffer.len() == length, "the server sent more than its answer");
                return Ok(());
            }
        }
    }
}

/// The length of an answer with its head, once that is there whole.
fn length_of(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut answer = httparse::Response::new(&mut lines);
    let httparse::Status::Complete(head) = answer.parse(bytes)? else { return Ok(None) };
    let status = answer.code.unwrap_or_default();
    ensure!((200..300).contains(&status), "the server answered {}", String::from_utf8_lossy(bytes));
    let length = answer.headers.iter().find(|line| line.name.eq_ignore_ascii_case("content-length"));
    let length = match length {
        Some(line) => std::str::from_utf8(line.value)?.parse()?,
        None if status == 204 => 0,
        None => bail!("the answer has no Content-Length: {}", String::from_utf8_lossy(bytes)),
    };
    Ok(Some(head + length))
}

/// How long the processor worked for these processes so far.
pub(crate) fn busy(processes: &[u32]) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for process in processes {
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
            // A thread may end while it is looked at.
            let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanos += text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(nanos))
}
