//! Numbers for Prometheus. Counting a request is three atomic additions; all names and labels are made when
//! somebody scrapes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use hydra_core::{Engine, EngineStats, ErrorCode, FolderId};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::route::Label;
use crate::service;

const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "DELETE", "other"];
/// Every status that is answered, in ascending order; one more place is kept for all others.
const STATUSES: [u16; 25] = [
    200, 201, 204, 304, 400, 401, 403, 404, 405, 409, 412, 413, 414, 415, 421, 422, 428, 429, 431, 500, 501, 502, 503,
    504, 507,
];
/// Upper ends of the latency buckets, in microseconds.
const BUCKETS: [u64; 14] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000, 10_000_000];

/// The numbers of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Requests about each folder.
    folders: Box<[AtomicU64]>,
    requests: Arc<Requests>,
    doors: Arc<Doors>,
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new(engine: &Engine) -> Metrics {
        let requests = Arc::new(Requests::default());
        let mut registry = Registry::with_prefix("hydra");
        registry.register_collector(Box::new(Arc::clone(&requests)));
        let doors = Arc::new(Doors::default());
        registry.register_collector(Box::new(Arc::clone(&doors)));
        registry.register_collector(Box::new(EngineNumbers(engine.clone())));
        let build = [("version", service::VERSION), ("rustc", service::RUSTC), ("commit", service::COMMIT)];
        registry.register("build", "What runs here", Info::new(build.to_vec()));
        let folders = (0..engine.folder_count().get()).map(|_| AtomicU64::new(0)).collect();
        Metrics { folders, requests, doors, registry }
    }

    /// Counts a request about a folder.
    pub(crate) fn count_folder(&self, folder: FolderId) {
        if let Some(counter) = self.folders.get(folder.get() as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests there were about each folder, of those that had any.
    pub(crate) fn load(&self) -> Vec<(FolderId, u64)> {
        let counts = self.folders.iter().map(|count| count.load(Ordering::Relaxed));
        (0..).map(FolderId::new).zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// How many requests were answered.
    pub(crate) fn answered(&self) -> u64 {
        let all = self.requests.counts.iter().flatten().flatten();
        all.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Counts an error answer, if it is one about who may do what.
    pub(crate) fn count_refusal(&self, code: ErrorCode) {
        if let Some(at) = REFUSALS.iter().position(|refusal| *refusal == code) {
            self.doors.refusals[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a connection that came to nothing.
    pub(crate) fn count_failed_handshake(&self, why: Handshake) {
        self.doors.handshakes[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one answered request.
    pub(crate) fn count(&self, method: &Method, label: Label, status: u16, took: Duration) {
        let method = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1);
        let status = STATUSES.binary_search(&status).unwrap_or(STATUSES.len());
        self.requests.count(method, label as usize, status, took);
    }

    /// The text of a scrape.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// Why there was no TLS connection, in the order of [`HANDSHAKES`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Handshake {
    /// The peer speaks no TLS, none that is allowed, or does not trust the certificate.
    Refused,
    /// The peer took too long.
    Timeout,
}

const HANDSHAKES: [&str; 2] = ["refused", "timeout"];
const REFUSALS: [ErrorCode; 4] =
    [ErrorCode::MissingToken, ErrorCode::InvalidToken, ErrorCode::ScopeDenied, ErrorCode::OriginDenied];

/// Who was kept out, and why.
#[derive(Debug, Default)]
struct Doors {
    refusals: [AtomicU64; REFUSALS.len()],
    handshakes: [AtomicU64; HANDSHAKES.len()],
}

impl Collector for Doors {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "auth_failures",
            "Requests refused for who sent them, by the code of the error",
            None,
            MetricType::Counter,
        )?;
        for (code, count) in REFUSALS.iter().zip(&self.refusals) {
            let count = ConstCounter::new(count.load(Ordering::Relaxed));
            count.encode(family.encode_family(&[("reason", code.as_str())])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "tls_handshakes_failed",
            "Connections on which no TLS was agreed on",
            None,
            MetricType::Counter,
        )?;
        for (why, count) in HANDSHAKES.iter().zip(&self.handshakes) {
            let count = ConstCounter::new(count.load(Ordering::Relaxed));
            count.encode(family.encode_family(&[("reason", *why)])?)?;
        }
        Ok(())
    }
}

/// Requests by method, endpoint and status, and how long they took by endpoint.
#[derive(Debug, Default)]
struct Requests {
    counts: [[[AtomicU64; STATUSES.len() + 1]; Label::NAMES.len()]; METHODS.len()],
    latency: [Latency; Label::NAMES.len()],
}

#[derive(Debug, Default)]
struct Latency {
    micros: AtomicU64,
    /// One more than there are bounds, for what took longer than all of them.
    buckets: [AtomicU64; BUCKETS.len() + 1],
}

impl Requests {
    fn count(&self, method: usize, label: usize, status: usize, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let latency = &self.latency[label];
        self.counts[method][label][status].fetch_add(1, Ordering::Relaxed);
        latency.micros.fetch_add(micros, Ordering::Relaxed);
        latency.buckets[BUCKETS.partition_point(|bound| *bound < micros)].fetch_add(1, Ordering::Relaxed);
    }
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "http_requests",
            "Requests answered, by method, endpoint and status",
            None,
            MetricType::Counter,
        )?;
        for (method, by_label) in METHODS.iter().zip(&self.counts) {
            for (label, by_status) in Label::NAMES.iter().zip(by_label) {
                for (index, count) in by_status.iter().enumerate() {
                    let count = count.load(Ordering::Relaxed);
                    if count > 0 {
                        let status = STATUSES.get(index).map_or("other".to_owned(), u16::to_string);
                        let labels = [("method", *method), ("route", *label), ("status", status.as_str())];
                        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                    }
                }
            }
        }
        let mut family = encoder.encode_descriptor(
            "http_request_duration_seconds",
            "Time from the head of a request to its answer, by endpoint",
            None,
            MetricType::Histogram,
        )?;
        for (label, latency) in Label::NAMES.iter().zip(&self.latency) {
            latency.encode(&mut family, label)?;
        }
        Ok(())
    }
}

impl Latency {
    fn encode(&self, family: &mut prometheus_client::encoding::MetricEncoder<'_>, label: &str) -> fmt::Result {
        let bounds = BUCKETS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        if count == 0 {
            return Ok(());
        }
        family.encode_family(&[("route", label)])?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// What the engine counts about itself.
#[derive(Debug)]
struct EngineNumbers(Engine);

type Number = (&'static str, &'static str, fn(&EngineStats) -> u64);

const GAUGES: [Number; 11] = [
    ("resident_swamps", "Swamps in memory", |s| s.resident_swamps),
    ("dirty_swamps", "Swamps with writes that are not on disk yet", |s| s.dirty_swamps),
    ("resident_bytes", "Bytes of the treasures in memory", |s| s.resident_bytes),
    ("open_files", "Files open for appending", |s| s.open_files),
    ("memory_budget_bytes", "Bytes the swamps in memory may take together", |s| s.memory_budget),
    ("kept_files", "Files kept open between writes", |s| s.kept_files),
    ("ballast_present", "1 while the reserve for a full disk is there", |s| s.ballast.into()),
    ("free_inodes", "Free inodes of the file system; 0 where they are not counted", |s| s.free_inodes.unwrap_or(0)),
    ("read_only_swamps", "Swamps that refuse writes now", |s| s.read_only_swamps),
    ("listeners", "Feeds and long polls that are open, by swamps", |s| s.listeners),
    ("free_bytes", "Free bytes of the file system", |s| s.free_bytes),
];

const COUNTERS: [Number; 9] = [
    ("hydrations", "Swamps loaded into memory", |s| s.hydrations),
    ("evictions", "Swamps dropped from memory", |s| s.evictions),
    ("memory_evictions", "Swamps dropped from memory to make room", |s| s.memory_evictions),
    ("memory_refusals", "Writes and loads refused because the memory budget was used up", |s| s.memory_refusals),
    ("syncs", "Times a file was synced", |s| s.syncs),
    ("writes", "Write operations acknowledged", |s| s.writes),
    ("reads", "Treasures read", |s| s.reads),
    ("damaged_files", "Damaged files met", |s| s.damaged_files),
    ("external_interference", "Files replaced, shortened or removed by someone else", |s| s.external_interference),
];

impl Collector for EngineNumbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.0.stats();
        for (name, help, read) in GAUGES {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(read(&stats)).unwrap_or(i64::MAX)).encode(metric)?;
        }
        for (name, help, read) in COUNTERS {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(read(&stats)).encode(metric)?;
        }
        Ok(())
    }
}
