//! Reading a map file: TOML into a draft. Notices every unknown key and every wrong type, with its place.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use hydra_core::duration::parse_duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::draft::{Draft, MapServer, PoolDraft, RouteDraft};
use super::finding::{Finding, did_you_mean};
use crate::access::Access;
use crate::settings::{Failback, FallbackMode, ReadFrom, Settings};

/// Reads a map. The draft holds whatever could be read, so that the other checks can go on; there is
/// none when the text is not TOML, because all of it would be reported again as missing.
pub(super) fn read(text: &str) -> (Option<Draft>, Vec<Finding>) {
    let mut reader = Reader { text, findings: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().unwrap_or(0..0);
        reader.note("E001", &at, error.message().to_owned());
    }
    let draft = errors.is_empty().then(|| reader.document(document.get_ref()));
    (draft, reader.findings)
}

struct Reader<'t> {
    text: &'t str,
    findings: Vec<Finding>,
}

type Value<'v> = Spanned<DeValue<'v>>;

impl Reader<'_> {
    fn document(&mut self, table: &DeTable<'_>) -> Draft {
        self.allow(
            table,
            "the map",
            &["format", "cluster", "epoch", "folders", "access", "servers", "route", "pool", "client"],
        );
        let mut draft = Draft::default();
        if let Some(value) = table.get("format") {
            draft.format = self.integer(value, "format").unwrap_or(draft.format);
        }
        if let Some(value) = table.get("cluster") {
            draft.cluster = self.string(value, "cluster").unwrap_or_default();
        }
        if let Some(value) = table.get("epoch") {
            draft.epoch = self.natural(value, "epoch").unwrap_or(draft.epoch);
        }
        match table.get("folders") {
            Some(value) => draft.folders = self.integer(value, "folders"),
            None => self.missing(&(0..0), "folders", "the map"),
        }
        if let Some(client) = table.get("client").and_then(|value| self.table(value, "[client]")) {
            draft.client = self.settings(client, "[client]", &Settings::default());
        }
        if let Some(access) = table.get("access").and_then(|value| self.table(value, "[access]")) {
            draft.access = self.access(access);
        }
        if let Some(servers) = table.get("servers").and_then(|value| self.table(value, "[servers]")) {
            draft.servers = servers.iter().filter_map(|(id, value)| self.server(id.get_ref(), value)).collect();
        }
        draft.pools[0].settings = draft.client.clone();
        draft.pools[0].routes = self.routes(table, "[[route]]");
        for value in self.tables(table.get("pool"), "[[pool]]") {
            let pool = self.pool(value, &draft.client);
            draft.pools.extend(pool);
        }
        draft
    }

    fn access(&mut self, table: &DeTable<'_>) -> Access {
        self.allow(table, "[access]", &["token_file", "token_env", "ca_certificate"]);
        let mut text = |key| table.get(key).and_then(|value| self.string(value, key));
        Access {
            token_file: text("token_file").map(PathBuf::from),
            token_env: text("token_env"),
            ca_certificate: text("ca_certificate").map(PathBuf::from),
        }
    }

    fn server(&mut self, id: &str, value: &Value<'_>) -> Option<MapServer> {
        let place = format!("[servers.{id}]");
        let table = self.table(value, &place)?;
        self.allow(table, &place, &["url", "capacity", "zone", "sync"]);
        let mut server = MapServer::new(id, "");
        match table.get("url") {
            Some(url) => server.url = self.string(url, "url")?,
            None => self.missing(&value.span(), "url", &place),
        }
        if let Some(capacity) = table.get("capacity") {
            server.capacity = self.number(capacity, "capacity").unwrap_or(1.0);
        }
        server.zone = table.get("zone").and_then(|zone| self.string(zone, "zone"));
        server.sync = table.get("sync").and_then(|sync| self.string(sync, "sync"));
        Some(server)
    }

    fn routes(&mut self, table: &DeTable<'_>, place: &str) -> Vec<RouteDraft> {
        self.tables(table.get("route"), place).into_iter().filter_map(|value| self.route(value, place)).collect()
    }

    fn route(&mut self, value: &Value<'_>, place: &str) -> Option<RouteDraft> {
        let table = self.table(value, place)?;
        self.allow(table, place, &["folders", "primary", "fallbacks"]);
        for key in ["folders", "primary"] {
            if table.get(key).is_none() {
                self.missing(&value.span(), key, place);
            }
        }
        let folders = match table.get("folders")?.get_ref() {
            DeValue::Integer(number) => number.as_str().to_owned(),
            _ => self.string(table.get("folders")?, "folders")?,
        };
        let primary = self.string(table.get("primary")?, "primary")?;
        let fallbacks = table.get("fallbacks").map(|list| self.strings(list, "fallbacks")).unwrap_or_default();
        Some(RouteDraft { folders, primary, fallbacks })
    }

    fn pool(&mut self, value: &Value<'_>, client: &Settings) -> Option<PoolDraft> {
        let table = self.table(value, "[[pool]]")?;
        self.allow(table, "[[pool]]", &["name", "match", "route", "client"]);
        for key in ["name", "match"] {
            if table.get(key).is_none() {
                self.missing(&value.span(), key, "[[pool]]");
            }
        }
        let name = table.get("name").and_then(|name| self.string(name, "name"))?;
        let mut pool = PoolDraft::new(name);
        pool.patterns = table.get("match").map(|list| self.strings(list, "match")).unwrap_or_default();
        pool.routes = self.routes(table, "[[pool.route]]");
        pool.settings = match table.get("client").and_then(|value| self.table(value, "[pool.client]")) {
            Some(own) => self.settings(own, "[pool.client]", client),
            None => client.clone(),
        };
        Some(pool)
    }

    /// The settings of `base` with those written in `table` in place of them.
    fn settings(&mut self, table: &DeTable<'_>, place: &str, base: &Settings) -> Settings {
        const TIMES: [&str; 6] =
            ["deadline", "try_timeout", "bulk_timeout", "connect_timeout", "hold_down", "failback_pause"];
        const OTHERS: [&str; 4] = ["attempts", "read_from", "fallback_mode", "failback"];
        self.allow(table, place, &[&TIMES[..], &OTHERS[..]].concat());
        let mut settings = base.clone();
        for key in TIMES {
            let Some(time) = table.get(key).and_then(|value| self.duration(value, key)) else { continue };
            match key {
                "deadline" => settings.deadline = time,
                "try_timeout" => settings.try_timeout = time,
                "bulk_timeout" => settings.bulk_timeout = time,
                "connect_timeout" => settings.connect_timeout = time,
                "hold_down" => settings.hold_down = time,
                _ => settings.failback_pause = time,
            }
        }
        if let Some(value) = table.get("attempts") {
            let attempts = self.natural(value, "attempts").map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            settings.attempts = attempts.unwrap_or(settings.attempts);
        }
        let read_from = [("primary", ReadFrom::Primary), ("nearest", ReadFrom::Nearest), ("any", ReadFrom::Any)];
        settings.read_from = self.choice(table, "read_from", &read_from).unwrap_or(settings.read_from);
        let modes = [
            ("read-write", FallbackMode::ReadWrite),
            ("read-only", FallbackMode::ReadOnly),
            ("off", FallbackMode::Off),
        ];
        settings.fallback_mode = self.choice(table, "fallback_mode", &modes).unwrap_or(settings.fallback_mode);
        let failback = [
            ("when_synced", Failback::WhenSynced),
            ("after_hold_down", Failback::AfterHoldDown),
            ("manual", Failback::Manual),
        ];
        settings.failback = self.choice(table, "failback", &failback).unwrap_or(settings.failback);
        settings
    }

    fn choice<T: Copy>(&mut self, table: &DeTable<'_>, key: &str, allowed: &[(&str, T)]) -> Option<T> {
        let value = table.get(key)?;
        let text = self.string(value, key)?;
        let chosen = allowed.iter().find(|(name, _)| *name == text).map(|&(_, choice)| choice);
        if chosen.is_none() {
            let names: Vec<String> = allowed.iter().map(|(name, _)| format!("{name:?}")).collect();
            let hint = did_you_mean(&text, allowed.iter().map(|&(name, _)| name));
            self.note("E003", &value.span(), format!("{key} is {text:?}; allowed is {}{hint}", names.join(", ")));
        }
        chosen
    }

    fn duration(&mut self, value: &Value<'_>, key: &str) -> Option<Duration> {
        let text = match value.get_ref() {
            DeValue::Integer(seconds) => seconds.as_str(),
            other => other.as_str().unwrap_or(""),
        };
        match parse_duration(text) {
            Ok(duration) => Some(duration),
            Err(_) => self.mistyped(value, key, "a duration such as \"250ms\" or \"5s\""),
        }
    }

    fn integer(&mut self, value: &Value<'_>, key: &str) -> Option<i64> {
        let number = value.get_ref().as_integer();
        match number.and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok()) {
            Some(number) => Some(number),
            None => self.mistyped(value, key, "a whole number"),
        }
    }

    fn natural(&mut self, value: &Value<'_>, key: &str) -> Option<u64> {
        let number = self.integer(value, key)?;
        match u64::try_from(number) {
            Ok(number) => Some(number),
            Err(_) => self.mistyped(value, key, "a whole number from 0"),
        }
    }

    fn number(&mut self, value: &Value<'_>, key: &str) -> Option<f64> {
        let text = match value.get_ref() {
            DeValue::Integer(number) => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => "",
        };
        match text.parse() {
            Ok(number) => Some(number),
            Err(_) => self.mistyped(value, key, "a number"),
        }
    }

    fn string(&mut self, value: &Value<'_>, key: &str) -> Option<String> {
        match value.get_ref().as_str() {
            Some(text) => Some(text.to_owned()),
            None => self.mistyped(value, key, "text in quotes"),
        }
    }

    fn strings(&mut self, value: &Value<'_>, key: &str) -> Vec<String> {
        match value.get_ref().as_array() {
            Some(list) => list.iter().filter_map(|item| self.string(item, key)).collect(),
            None => self.mistyped(value, key, "a list such as [\"a\", \"b\"]").unwrap_or_default(),
        }
    }

    fn table<'v>(&mut self, value: &'v Value<'_>, place: &str) -> Option<&'v DeTable<'v>> {
        match value.get_ref().as_table() {
            Some(table) => Some(table),
            None => self.mistyped(value, place, "a table"),
        }
    }

    fn tables<'v>(&mut self, value: Option<&'v Value<'v>>, place: &str) -> Vec<&'v Value<'v>> {
        match value.map(|value| (value, value.get_ref().as_array())) {
            None => Vec::new(),
            Some((_, Some(list))) => list.iter().collect(),
            Some((value, None)) => self.mistyped(value, place, "a list of tables").unwrap_or_default(),
        }
    }

    fn allow(&mut self, table: &DeTable<'_>, place: &str, keys: &[&str]) {
        for key in table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref())) {
            let hint = did_you_mean(key.get_ref(), keys.iter().copied());
            self.note("E001", &key.span(), format!("unknown key {:?} in {place}{hint}", key.get_ref()));
        }
    }

    fn missing(&mut self, at: &Range<usize>, key: &str, place: &str) {
        self.note("E003", at, format!("{place} has no {key:?}"));
    }

    fn mistyped<T>(&mut self, value: &Value<'_>, key: &str, wanted: &str) -> Option<T> {
        let came = &self.text[value.span()];
        let came: String = came.chars().take(40).collect();
        self.note("E003", &value.span(), format!("{key} is {came}; allowed is {wanted}"));
        None
    }

    fn note(&mut self, code: &'static str, span: &Range<usize>, message: String) {
        let before = &self.text[..span.start.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        self.findings.push(Finding::new(code, message).at((line, column)));
    }
}
