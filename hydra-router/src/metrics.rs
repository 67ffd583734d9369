//! Numbers for Prometheus, few enough to be written by hand.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use hydra_core::{FolderCount, FolderId};
use hydra_sdk::{Hydra, ServerState};

/// What a router counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Requests about each folder.
    folders: Box<[AtomicU64]>,
    /// Answers by the first digit of their status.
    answers: [AtomicU64; 6],
    fallbacks: AtomicU64,
    unanswered: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(folders: FolderCount) -> Metrics {
        Metrics {
            folders: (0..folders.get()).map(|_| AtomicU64::new(0)).collect(),
            answers: Default::default(),
            fallbacks: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
        }
    }

    /// Counts a request about a folder.
    pub(crate) fn asked(&self, folder: FolderId) {
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
    pub(crate) fn requests(&self) -> u64 {
        self.answers.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, status: u16) {
        let digit = usize::from(status / 100);
        if let Some(counter) = self.answers.get(digit) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an answer that a fallback gave in place of the primary.
    pub(crate) fn fell_back(&self) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that no server answered.
    pub(crate) fn unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything as text.
    pub(crate) fn encode(&self, hydra: &Hydra) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out, hydra);
        out
    }

    fn write(&self, out: &mut String, hydra: &Hydra) -> std::fmt::Result {
        head(out, "hydra_router_answers_total", "counter", "Answers, by the first digit of the status.")?;
        for (digit, count) in self.answers.iter().enumerate().skip(1) {
            let count = count.load(Ordering::Relaxed);
            writeln!(out, "hydra_router_answers_total{{status=\"{digit}xx\"}} {count}")?;
        }
        let counters = [
            ("hydra_router_fallbacks_total", &self.fallbacks, "Answers a fallback gave in place of the primary."),
            ("hydra_router_unanswered_total", &self.unanswered, "Requests that no server answered."),
        ];
        for (name, count, help) in counters {
            head(out, name, "counter", help)?;
            writeln!(out, "{name} {}", count.load(Ordering::Relaxed))?;
        }
        head(out, "hydra_router_map_epoch", "gauge", "The epoch of the map in force.")?;
        writeln!(out, "hydra_router_map_epoch {}", hydra.map().map_or(0, |map| map.epoch()))?;
        head(out, "hydra_router_server_up", "gauge", "Whether the server is asked when it is its turn.")?;
        for (server, state) in hydra.servers() {
            let is_up = u8::from(state == ServerState::Up);
            writeln!(out, "hydra_router_server_up{{server=\"{}\"}} {is_up}", server.id)?;
        }
        Ok(())
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}
