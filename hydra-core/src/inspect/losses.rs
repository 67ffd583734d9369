//! What is lost with a file that is given up, told byte by byte.

use crate::format::footer::Footer;
use crate::format::frame;
use crate::format::record::Record;
use crate::format::scan::Scan;
use crate::inspect::dump::{incarnation_text, needed};
use crate::inspect::repair::Loss;
use crate::inspect::rewrite::Plan;
use crate::inspect::swamp::{Content, SwampFile, clock_time};
use crate::layout::ChunkKind;
use crate::merge::Chunk;

/// What cannot be read of a file that is given up.
pub(super) fn losses(dir: &str, file: &SwampFile) -> Vec<Loss> {
    let path = format!("{dir}/{}", file.name.file_name());
    let whole = |detail: &str| Loss {
        path: path.clone(),
        from: 0,
        to: file.bytes.len() as u64,
        after: None,
        before: None,
        detail: detail.to_owned(),
    };
    match &file.content {
        Content::Chunk(scan) => match Chunk::new(&file.name, scan, &file.bytes) {
            Some(chunk) => gaps(&path, &chunk, scan, &file.bytes),
            None => vec![whole("the file cannot be decompressed: everything in it is lost")],
        },
        Content::Damaged(what) => vec![whole(&format!("{what}: everything in it is lost"))],
        Content::Stranger { why, .. } => vec![whole(&format!("{}; nothing of this swamp is in it", why.text()))],
        Content::Empty | Content::Newer(_) => Vec::new(),
    }
}

/// What a whole file refers to and nobody has.
pub(super) fn missing(dir: &str, file: &SwampFile, plan: &Plan) -> Option<Loss> {
    let scan = file.scan().filter(|scan| scan.damage.is_none())?;
    let chunk = Chunk::new(&file.name, scan, &file.bytes)?;
    let beyond = needed(&chunk).beyond(plan.known());
    let text = |(by, hlc)| format!("{} up to {}", incarnation_text(by), clock_time(hlc));
    let missing: Vec<String> = beyond.iter().map(text).collect();
    let detail = format!("it refers to records that are not here and are given up: {}", missing.join(", "));
    let path = format!("{dir}/{}", file.name.file_name());
    (!missing.is_empty()).then_some(Loss { path, from: 0, to: 0, after: None, before: None, detail })
}

/// The bytes between the frames that hold.
fn gaps(path: &str, chunk: &Chunk<'_>, scan: &Scan, bytes: &[u8]) -> Vec<Loss> {
    let header = u64::from(u32::from_le_bytes(bytes[12..16].try_into().unwrap_or_default()));
    let footer = Footer::read(bytes, frame::salt(chunk.name.incarnation, chunk.name.seq));
    let end = footer.map_or(scan.torn_at.unwrap_or(bytes.len() as u64), |(_, span)| span.offset);
    let times: Vec<Option<(u64, u64)>> = (0..chunk.frame_count()).map(|index| times(chunk, index)).collect();
    let mut losses = Vec::new();
    let mut at = header;
    for (index, span) in scan.frames.iter().enumerate() {
        if span.offset > at {
            let after = times[..index].iter().rev().flatten().next().map(|&(_, last)| last);
            let before = times[index..].iter().flatten().next().map(|&(first, _)| first);
            losses.push(loss(path, chunk, at, span.offset, (after, before)));
        }
        at = span.end();
    }
    if at < end {
        let after = times.iter().rev().flatten().next().map(|&(_, last)| last);
        losses.push(loss(path, chunk, at, end, (after, None)));
    }
    if chunk.name.kind == ChunkKind::Snap && scan.footer.is_none() {
        losses.push(loss(path, chunk, end, bytes.len() as u64, (None, None)));
    }
    losses
}

fn loss(path: &str, chunk: &Chunk<'_>, from: u64, to: u64, (after, before): (Option<u64>, Option<u64>)) -> Loss {
    let (after, before, detail) = match chunk.name.kind {
        ChunkKind::Log => {
            (after, before, "writes of this time are lost, or undone if an older file has an earlier value")
        }
        // The records of a snapshot are sorted by key, so time says nothing.
        ChunkKind::Snap => (None, None, "keys of this part of the snapshot are lost, and old deletes may be undone"),
    };
    let [after, before] = [after, before].map(|hlc| hlc.map(clock_time));
    Loss { path: path.to_owned(), from, to, after, before, detail: detail.to_owned() }
}

/// The clock values of the first and the last record of a frame.
fn times(chunk: &Chunk<'_>, index: usize) -> Option<(u64, u64)> {
    let records = chunk.frame(index).1;
    let mut stamps = records.iter().filter_map(|record| match record {
        Record::Write { stamp, .. } => Some(stamp.hlc),
        _ => None,
    });
    let first = stamps.next()?;
    Some((first, stamps.next_back().unwrap_or(first)))
}
