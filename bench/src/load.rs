//! A small HTTP load generator: keep-alive connections that send one prepared request after the other.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a measurement saw.
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Sends requests on every connection until the time is over. `request` makes the bytes of the i-th one.
pub(crate) async fn run<F>(address: &str, connections: usize, seconds: u64, request: F) -> anyhow::Result<Measured>
where
    F: Fn(u64) -> Vec<u8> + Clone + Send + 'static,
{
    let until = Instant::now() + Duration::from_secs(seconds);
    let began = Instant::now();
    let tasks: Vec<_> = (0..connections as u64)
        .map(|connection| {
            let (address, request) = (address.to_owned(), request.clone());
            tokio::spawn(async move { one_connection(&address, connection, until, request).await })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let elapsed = began.elapsed();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Ok(Measured { per_second: times.len() as f64 / elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99) })
}

async fn one_connection<F>(address: &str, connection: u64, until: Instant, request: F) -> anyhow::Result<Vec<Duration>>
where
    F: Fn(u64) -> Vec<u8>,
{
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    let mut times = Vec::new();
    let mut buffer = Vec::with_capacity(8192);
    let mut i = connection << 32;
    while Instant::now() < until {
        let began = Instant::now();
        stream.write_all(&request(i)).await?;
        read_answer(&mut stream, &mut buffer).await?;
        times.push(began.elapsed());
        i += 1;
    }
    Ok(times)
}

/// Reads one answer with a Content-Length; anything but 2xx ends the measurement.
async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head])?;
        if !text.starts_with("HTTP/1.1 2") {
            bail!("the server answered {text}");
        }
        let length: usize = text
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:").map(|length| length.trim().to_owned())
            })
            .map_or(Ok(0), |length| length.parse())?;
        let whole = head + 4 + length;
        while buffer.len() < whole {
            if stream.read_buf(buffer).await? == 0 {
                bail!("the server closed the connection");
            }
        }
        return Ok(());
    }
}
