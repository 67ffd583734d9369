//! Events as text: server-sent events for browsers, one JSON object per line for everybody else. Pure.

use bytes::Bytes;
use hydra_core::wire::FeedFormat;
use hydra_core::{EventKind, FeedEvent, Treasure};

use crate::render::{Include, write_string, write_treasure};

/// What of events is written, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) format: FeedFormat,
    /// Values are left out.
    pub(crate) keys_only: bool,
    /// Every event says which swamp it is about.
    pub(crate) names_swamps: bool,
}

impl Shape {
    /// A sign of life that is no event: a comment, or an empty line.
    pub(crate) fn comment(self, text: &str) -> Bytes {
        match self.format {
            FeedFormat::Sse if text.is_empty() => Bytes::from_static(b":\n\n"),
            FeedFormat::Sse => format!(": {text}\n\n").into(),
            FeedFormat::Lines => Bytes::from_static(b"\n"),
        }
    }

    /// Appends an event.
    pub(crate) fn write(self, out: &mut Vec<u8>, event: &FeedEvent) {
        let kind = event.kind.as_str();
        match self.format {
            FeedFormat::Sse => {
                if let Some(id) = event.id {
                    out.extend_from_slice(format!("id: {id}\n").as_bytes());
                }
                out.extend_from_slice(format!("event: {kind}\ndata: {{").as_bytes());
                self.write_data(out, event);
                out.extend_from_slice(b"}\n\n");
            }
            FeedFormat::Lines => {
                out.extend_from_slice(format!("{{\"event\":\"{kind}\",").as_bytes());
                if let Some(id) = event.id {
                    out.extend_from_slice(format!("\"id\":\"{id}\",").as_bytes());
                }
                self.write_data(out, event);
                out.extend_from_slice(b"}\n");
            }
        }
    }

    /// The members that both formats have, without braces.
    fn write_data(self, out: &mut Vec<u8>, event: &FeedEvent) {
        let begin = out.len();
        match &event.kind {
            EventKind::Put { treasure, old } => {
                self.write_members(out, treasure);
                self.write_old(out, old.as_ref());
            }
            EventKind::Delete { key, version, old } => {
                write_key(out, key);
                if let Some(version) = version {
                    out.extend_from_slice(format!("\"version\":\"{version}\",").as_bytes());
                }
                self.write_old(out, old.as_ref());
            }
            EventKind::Expire { key, old } => {
                write_key(out, key);
                self.write_old(out, old.as_ref());
            }
            EventKind::Reset { reason } => write_reason(out, reason),
            EventKind::Lagged => write_reason(out, "the reader was too slow; go on from the last id"),
            _ => {}
        }
        if let Some(swamp) = event.swamp.as_ref().filter(|_| self.names_swamps) {
            out.extend_from_slice(b"\"swamp\":");
            write_string(out, swamp.as_str());
            out.push(b',');
        }
        out.extend_from_slice(format!("\"at\":\"{}\"", event.at).as_bytes());
        // JSON has line breaks only between its tokens, where a space means the same.
        out[begin..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    }

    fn include(self) -> Include {
        if self.keys_only { Include::Meta } else { Include::Full }
    }

    /// A treasure without its braces, with a comma behind it.
    fn write_members(self, out: &mut Vec<u8>, treasure: &Treasure) {
        let begin = out.len();
        write_treasure(out, treasure, self.include());
        out.remove(begin);
        out.pop();
        out.push(b',');
    }

    fn write_old(self, out: &mut Vec<u8>, old: Option<&Treasure>) {
        if let Some(old) = old {
            out.extend_from_slice(b"\"old\":");
            write_treasure(out, old, self.include());
            out.push(b',');
        }
    }
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b"\"key\":");
    write_string(out, key);
    out.push(b',');
}

fn write_reason(out: &mut Vec<u8>, reason: &str) {
    out.extend_from_slice(b"\"reason\":");
    write_string(out, reason);
    out.push(b',');
}
