//! Everything that can be wrong with a map and can be told without asking a server.
//!
//! Each check looks at the whole map and reports all it finds; none stops at the first.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hydra_core::{FolderCount, FolderId, FolderSet, Pattern};

use super::draft::{DEFAULT_POOL, Draft, FORMAT, MapServer, PoolDraft, RouteDraft};
use super::finding::{Finding, did_you_mean};
use crate::settings::{ReadFrom, Settings};

/// Every finding about a draft, errors first.
pub(super) fn check(draft: &Draft) -> Vec<Finding> {
    let by_id = draft.servers.iter().map(|server| (server.id.as_str(), server)).collect();
    let mut checker = Checker { draft, by_id, findings: Vec::new() };
    checker.head();
    checker.servers();
    for pool in &draft.pools {
        checker.pool(pool);
    }
    checker.patterns();
    checker.usage();
    checker.findings
}

/// What is wrong with putting `new` in the place of `old` while clients run.
pub(super) fn check_successor(old: &Draft, new: &Draft) -> Vec<Finding> {
    let mut findings = Vec::new();
    if new.cluster != old.cluster {
        let message = format!("the map is for cluster {:?}, this client runs {:?}", new.cluster, old.cluster);
        findings.push(Finding::new("E004", message));
    }
    if new.epoch < old.epoch {
        let message = format!("epoch {} is older than the loaded epoch {}", new.epoch, old.epoch);
        findings.push(Finding::new("E005", message));
    }
    if new.epoch == old.epoch && new != old {
        let message =
            format!("epoch {} again, but the content differs; count the epoch up with every change", new.epoch);
        findings.push(Finding::new("E005", message));
    }
    if let (Some(before), Some(after)) = (old.folders, new.folders)
        && before != after
    {
        let message =
            format!("folders changed from {before} to {after}: every swamp would move; not possible in a live map");
        findings.push(Finding::new("E106", message));
    }
    findings
}

/// The folders of a route and the ranges they were written as; findings for what cannot be read.
pub(super) fn read_ranges(text: &str) -> (Vec<FolderSet>, Vec<Finding>) {
    let mut ranges = Vec::new();
    let mut findings = Vec::new();
    for piece in text.split(',') {
        match piece.parse::<FolderSet>() {
            Ok(range) => ranges.push(range),
            Err(error) => findings.push(Finding::new(range_code(piece), error.detail())),
        }
    }
    (ranges, findings)
}

/// Why a range was refused: backwards, beyond what is possible, or not readable at all.
fn range_code(piece: &str) -> &'static str {
    let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => "E103",
        (Ok(_), Ok(_)) => "E104",
        _ => "E107",
    }
}

struct Checker<'d> {
    draft: &'d Draft,
    by_id: HashMap<&'d str, &'d MapServer>,
    findings: Vec<Finding>,
}

impl<'d> Checker<'d> {
    fn note(&mut self, code: &'static str, message: impl Into<String>) {
        self.findings.push(Finding::new(code, message));
    }

    fn count(&self) -> Option<FolderCount> {
        let folders = u32::try_from(self.draft.folders?).ok()?;
        FolderCount::new(folders).ok()
    }

    fn head(&mut self) {
        if self.draft.format != FORMAT {
            self.note("E002", format!("format {} is not known; this version reads format {FORMAT}", self.draft.format));
        }
        if self.draft.cluster.is_empty() {
            self.note("E003", "cluster is empty; it names the cluster, e.g. \"hydra\"");
        }
        if let (Some(_), Some(_)) = (&self.draft.access.token_file, &self.draft.access.token_env) {
            self.note("E003", "[access] has both token_file and token_env; a token comes from one of them");
        }
        if let (Some(folders), None) = (self.draft.folders, self.count()) {
            self.note("E105", format!("folders = {folders}: must be 1 to {}, and never changes", FolderCount::MAX));
        }
    }

    fn servers(&mut self) {
        let draft = self.draft;
        if draft.servers.is_empty() {
            self.note("E200", "the map has no servers");
        }
        let mut urls: BTreeMap<&str, &str> = BTreeMap::new();
        let mut ids: BTreeMap<&str, ()> = BTreeMap::new();
        for server in &draft.servers {
            if let Err(why) = check_url(&server.url) {
                self.note("E205", format!("server {}: url {:?} {why}", server.id, server.url));
            }
            if let Some(other) = urls.insert(server.url.trim_end_matches('/'), &server.id) {
                self.note("E202", format!("servers {other} and {} have the same url {}", server.id, server.url));
            }
            if ids.insert(&server.id, ()).is_some() {
                self.note("E208", format!("server {:?} is listed twice", server.id));
            }
            self.server(server);
        }
    }

    fn server(&mut self, server: &MapServer) {
        let id = &server.id;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if !(1..=32).contains(&id.len()) || !id.bytes().all(allowed) {
            self.note("E207", format!("server id {id:?} is not 1 to 32 of a-z, 0-9 and _"));
        }
        if !(server.capacity.is_finite() && server.capacity > 0.0) {
            self.note("E003", format!("server {id}: capacity is {}; allowed is a number above 0", server.capacity));
        }
    }

    fn pool(&mut self, pool: &PoolDraft) {
        self.settings(pool);
        let mut claims: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, route) in pool.routes.iter().enumerate() {
            let place = format!("pool {}, route {}", pool.name, index + 1);
            self.route(&place, route);
            for range in self.ranges(&place, route) {
                for folder in range.iter() {
                    claims.entry(folder.get()).or_default().push(index);
                }
            }
        }
        if !self.is_unreachable_default(pool) {
            self.gaps(pool, &claims);
        }
        self.overlaps(pool, &claims);
    }

    /// A default pool without routes is fine where another pool claims every name.
    fn is_unreachable_default(&self, pool: &PoolDraft) -> bool {
        let claims_all = |other: &PoolDraft| other.patterns.iter().any(|pattern| pattern == "*/*/*");
        pool.name == DEFAULT_POOL && pool.routes.is_empty() && self.draft.pools[1..].iter().any(claims_all)
    }

    /// The ranges of a route, cut to the folders that exist.
    fn ranges(&mut self, place: &str, route: &RouteDraft) -> Vec<FolderSet> {
        let (mut ranges, findings) = read_ranges(&route.folders);
        for finding in findings {
            self.note(finding.code, format!("{place}: {}", finding.message));
        }
        let Some(count) = self.count() else { return Vec::new() };
        for range in &mut ranges {
            if range.check(count).is_err() {
                self.note("E104", format!("{place}: {}", beyond(range, count)));
                *range = range.iter().filter(|folder| folder.get() < count.get()).collect();
            }
        }
        ranges
    }

    fn gaps(&mut self, pool: &PoolDraft, claims: &BTreeMap<u32, Vec<usize>>) {
        let Some(count) = self.count() else { return };
        let gap: FolderSet = count.all().iter().filter(|folder| !claims.contains_key(&folder.get())).collect();
        if !gap.is_empty() {
            self.note("E101", format!("pool {}: no server for folders {gap}", pool.name));
        }
    }

    fn overlaps(&mut self, pool: &PoolDraft, claims: &BTreeMap<u32, Vec<usize>>) {
        let mut claimed: BTreeMap<&[usize], Vec<FolderId>> = BTreeMap::new();
        for (&folder, routes) in claims.iter().filter(|(_, routes)| routes.len() > 1) {
            claimed.entry(routes).or_default().push(FolderId::new(folder));
        }
        for (routes, folders) in claimed {
            let folders: FolderSet = folders.into_iter().collect();
            let numbers: Vec<String> = routes.iter().map(|route| (route + 1).to_string()).collect();
            let primaries: Vec<&str> = routes.iter().map(|&route| pool.routes[route].primary.as_str()).collect();
            self.note(
                "E102",
                format!(
                    "pool {}: folders {folders} are claimed by routes {} (primaries {})",
                    pool.name,
                    numbers.join(", "),
                    primaries.join(", ")
                ),
            );
        }
    }

    fn route(&mut self, place: &str, route: &RouteDraft) {
        for id in std::iter::once(&route.primary).chain(&route.fallbacks) {
            if self.find(id).is_none() {
                let hint = did_you_mean(id, self.draft.servers.iter().map(|server| server.id.as_str()));
                self.note("E201", format!("{place} (folders {}): unknown server {id:?}{hint}", route.folders));
            }
        }
        if route.fallbacks.contains(&route.primary) {
            self.note("E203", format!("{place}: {:?} is its own fallback", route.primary));
        }
        let repeated = |(index, id)| route.fallbacks[..index].contains(id);
        if route.fallbacks.iter().enumerate().any(repeated) {
            self.note("E204", format!("{place}: a fallback is listed twice"));
        }
        if route.fallbacks.is_empty() {
            let (folders, primary) = (&route.folders, &route.primary);
            self.note(
                "W502",
                format!("{place}: no fallback; folders {folders} are unavailable while {primary} is down"),
            );
        }
        self.zones(place, route);
    }

    fn zones(&mut self, place: &str, route: &RouteDraft) {
        let zone_of = |id: &str| self.find(id).and_then(|server| server.zone.clone());
        let Some(zone) = zone_of(&route.primary) else { return };
        let same: Vec<&String> = route.fallbacks.iter().filter(|id| zone_of(id).as_ref() == Some(&zone)).collect();
        for fallback in same {
            let primary = &route.primary;
            self.note(
                "W501",
                format!("{place}: fallback {fallback} is in the same zone as primary {primary} ({zone})"),
            );
        }
    }

    fn find(&self, id: &str) -> Option<&'d MapServer> {
        self.by_id.get(id).copied()
    }

    fn settings(&mut self, pool: &PoolDraft) {
        let settings = &pool.settings;
        let place = if pool.name == DEFAULT_POOL { "[client]".to_owned() } else { format!("pool {}", pool.name) };
        for (key, time) in times(settings) {
            if time.is_zero() || time > Duration::from_secs(3600) {
                let time = hydra_core::duration::format_duration(time);
                self.note("E601", format!("{place}: {key} is {time}; allowed is 1ms to 1h"));
            }
        }
        let shortest = settings.try_timeout.min(settings.bulk_timeout).min(settings.deadline);
        if settings.connect_timeout >= shortest {
            let connect = hydra_core::duration::format_duration(settings.connect_timeout);
            self.note(
                "E602",
                format!("{place}: connect_timeout is {connect}; it must be shorter than try_timeout, bulk_timeout and deadline"),
            );
        }
        if !(1..=10).contains(&settings.attempts) {
            self.note("E603", format!("{place}: attempts is {}; allowed is 1 to 10", settings.attempts));
        }
        if settings.read_from == ReadFrom::Nearest {
            self.note(
                "W504",
                format!("{place}: read_from = \"nearest\" is served by the primary; no distance is measured yet"),
            );
        }
    }

    fn patterns(&mut self) {
        let mut known: Vec<(Pattern, &str)> = Vec::new();
        let draft = self.draft;
        for (index, pool) in draft.pools.iter().enumerate().skip(1) {
            self.pool_head(index, pool);
            for text in &pool.patterns {
                match text.parse::<Pattern>() {
                    Ok(pattern) => known.push((pattern, &pool.name)),
                    Err(error) => self.note("E302", format!("pool {}: {error}", pool.name)),
                }
            }
        }
        for (index, (a, pool_a)) in known.iter().enumerate() {
            for (b, pool_b) in &known[index + 1..] {
                if pool_a != pool_b && a.compare_specificity(b) == Ordering::Equal && a.overlaps(b) {
                    self.note(
                        "E301",
                        format!("patterns \"{a}\" (pool {pool_a}) and \"{b}\" (pool {pool_b}) are equally specific and both match some names"),
                    );
                }
            }
        }
    }

    fn pool_head(&mut self, index: usize, pool: &PoolDraft) {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(1..=64).contains(&pool.name.len()) || !pool.name.bytes().all(allowed) {
            self.note("E304", format!("pool name {:?} is not 1 to 64 of letters, digits, _ and -", pool.name));
        }
        if self.draft.pools[..index].iter().any(|other| other.name == pool.name) {
            let why = if pool.name == DEFAULT_POOL { "is the pool of all other names" } else { "is listed twice" };
            self.note("E304", format!("pool {:?} {why}", pool.name));
        }
        if pool.patterns.is_empty() {
            self.note("E303", format!("pool {}: match is empty, so no name is in it", pool.name));
        }
    }

    /// Which pools use which server: none is a warning, two are refused.
    fn usage(&mut self) {
        let draft = self.draft;
        let mut users: HashMap<&str, Vec<&str>> = HashMap::new();
        for pool in &draft.pools {
            for id in pool.routes.iter().flat_map(|route| std::iter::once(&route.primary).chain(&route.fallbacks)) {
                let pools = users.entry(id).or_default();
                if pools.last() != Some(&pool.name.as_str()) {
                    pools.push(&pool.name);
                }
            }
        }
        for server in &draft.servers {
            let pools = users.remove(server.id.as_str()).unwrap_or_default();
            match pools[..] {
                [] => self.note("W206", format!("server {} is in no route", server.id)),
                [_] => {}
                _ => self.note(
                    "E206",
                    format!(
                        "server {} is routed in pools {}; a server belongs to one pool",
                        server.id,
                        pools.join(" and ")
                    ),
                ),
            }
        }
    }
}

fn times(settings: &Settings) -> [(&'static str, Duration); 4] {
    [
        ("deadline", settings.deadline),
        ("try_timeout", settings.try_timeout),
        ("bulk_timeout", settings.bulk_timeout),
        ("connect_timeout", settings.connect_timeout),
    ]
}

/// What to say about a range that ends beyond the last folder.
fn beyond(range: &FolderSet, count: FolderCount) -> String {
    let missing: FolderSet = range.iter().filter(|folder| folder.get() >= count.get()).collect();
    let noun = if missing.len() == 1 { "folder" } else { "folders" };
    let verb = if missing.len() == 1 { "does" } else { "do" };
    let hint = match range.ranges() {
        &[(first, last)] if last == count.get() && first > 0 => {
            format!(" (Hydra counts from 0: did you mean {}-{}?)", first - 1, last - 1)
        }
        _ => " (Hydra counts from 0)".to_owned(),
    };
    format!("{noun} {missing} {verb} not exist; folders run 0-{}{hint}", count.get() - 1)
}

/// Checks `http://host:port`.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    let rest = match url.split_once("://") {
        Some(("http" | "https", rest)) => rest.strip_suffix('/').unwrap_or(rest),
        _ => return Err("must be http://host:port or https://host:port".to_owned()),
    };
    let refuse = |why: &str| {
        Err(format!("{why}; it must be http://host:port or https://host:port, without path or credentials"))
    };
    if rest.contains(['/', '?', '#', '@']) {
        return refuse("has a path or credentials");
    }
    let Some((host, port)) = rest.rsplit_once(':') else { return refuse("has no port") };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return refuse("has no port from 1 to 65535");
    }
    let is_ipv6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_ipv6 || is_name { Ok(()) } else { refuse("has no usable host") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_scheme_host_and_port() {
        for good in ["http://10.0.0.1:7700", "http://hydra-00.internal:1/", "http://[::1]:4937", "https://a:1"] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "10.0.0.1:7700",
            "ftp://a:1",
            "http://a",
            "http://a:0",
            "http://a:1/x",
            "http://u:p@a:1",
            "http://:1",
            "http://a:+1",
            "http://a b:1",
            "https://a",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_say_why_they_are_refused() {
        let codes = |text: &str| read_ranges(text).1.into_iter().map(|finding| finding.code).collect::<Vec<_>>();
        assert_eq!(codes("0-33,84-99"), Vec::<&str>::new());
        assert_eq!(codes("99-0,5-,70000"), ["E103", "E107", "E104"]);
    }
}
