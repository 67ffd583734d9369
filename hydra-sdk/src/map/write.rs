//! Writing a client map as TOML: complete, in one order, so that two maps are alike if their texts are.

use std::fmt::Write;
use std::path::PathBuf;

use hydra_core::FolderSet;
use hydra_core::duration::format_duration;

use super::check::read_ranges;
use super::draft::{Draft, MapServer, PoolDraft, RouteDraft};
use crate::access::Access;
use crate::settings::{Failback, FallbackMode, ReadFrom, Settings};

/// The text of a map; reading it gives the same map.
pub(super) fn write(draft: &Draft) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = map(&mut out, draft);
    out
}

fn map(out: &mut String, draft: &Draft) -> std::fmt::Result {
    writeln!(out, "format = {}", draft.format)?;
    writeln!(out, "cluster = {}", quoted(&draft.cluster))?;
    writeln!(out, "epoch = {}", draft.epoch)?;
    writeln!(out, "folders = {}", draft.folders.unwrap_or_default())?;
    access(out, &draft.access)?;
    settings(out, "client", &draft.client)?;
    for listed in &draft.servers {
        server(out, listed)?;
    }
    for (index, listed) in draft.pools.iter().enumerate() {
        if index > 0 {
            pool(out, listed, &draft.client)?;
        }
        let table = if index == 0 { "route" } else { "pool.route" };
        for listed in &listed.routes {
            route(out, table, listed)?;
        }
    }
    Ok(())
}

fn access(out: &mut String, access: &Access) -> std::fmt::Result {
    if *access == Access::default() {
        return Ok(());
    }
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    writeln!(out, "\n[access]")?;
    for (key, value) in [
        ("token_file", path(&access.token_file)),
        ("token_env", access.token_env.clone()),
        ("ca_certificate", path(&access.ca_certificate)),
    ] {
        if let Some(value) = value {
            writeln!(out, "{key} = {}", quoted(&value))?;
        }
    }
    Ok(())
}

fn server(out: &mut String, server: &MapServer) -> std::fmt::Result {
    writeln!(out, "\n[servers.{}]", server.id)?;
    writeln!(out, "url = {}", quoted(&server.url))?;
    writeln!(out, "capacity = {:?}", server.capacity)?;
    for (key, value) in [("zone", &server.zone), ("sync", &server.sync)] {
        if let Some(value) = value {
            writeln!(out, "{key} = {}", quoted(value))?;
        }
    }
    Ok(())
}

fn pool(out: &mut String, pool: &PoolDraft, client: &Settings) -> std::fmt::Result {
    writeln!(out, "\n[[pool]]")?;
    writeln!(out, "name = {}", quoted(&pool.name))?;
    writeln!(out, "match = {}", list(&pool.patterns))?;
    if pool.settings == *client { Ok(()) } else { settings(out, "pool.client", &pool.settings) }
}

fn route(out: &mut String, table: &str, route: &RouteDraft) -> std::fmt::Result {
    let folders: FolderSet = read_ranges(&route.folders).0.iter().flat_map(FolderSet::iter).collect();
    writeln!(out, "\n[[{table}]]")?;
    writeln!(out, "folders = {}", quoted(&folders.to_string()))?;
    writeln!(out, "primary = {}", quoted(&route.primary))?;
    if route.fallbacks.is_empty() { Ok(()) } else { writeln!(out, "fallbacks = {}", list(&route.fallbacks)) }
}

fn settings(out: &mut String, table: &str, settings: &Settings) -> std::fmt::Result {
    let read_from = match settings.read_from {
        ReadFrom::Primary => "primary",
        ReadFrom::Nearest => "nearest",
        ReadFrom::Any => "any",
    };
    let fallback_mode = match settings.fallback_mode {
        FallbackMode::ReadWrite => "read-write",
        FallbackMode::ReadOnly => "read-only",
        FallbackMode::Off => "off",
    };
    let failback = match settings.failback {
        Failback::WhenSynced => "when_synced",
        Failback::AfterHoldDown => "after_hold_down",
        Failback::Manual => "manual",
    };
    writeln!(out, "\n[{table}]")?;
    let times = [
        ("deadline", settings.deadline),
        ("try_timeout", settings.try_timeout),
        ("bulk_timeout", settings.bulk_timeout),
        ("connect_timeout", settings.connect_timeout),
        ("hold_down", settings.hold_down),
        ("failback_pause", settings.failback_pause),
    ];
    for (key, time) in times {
        writeln!(out, "{key} = {}", quoted(&format_duration(time)))?;
    }
    writeln!(out, "attempts = {}", settings.attempts)?;
    for (key, choice) in [("read_from", read_from), ("fallback_mode", fallback_mode), ("failback", failback)] {
        writeln!(out, "{key} = {}", quoted(choice))?;
    }
    Ok(())
}

fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", quoted.join(", "))
}

/// A TOML string in double quotes.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use crate::map::ClientMap;

    #[test]
    fn a_map_that_was_written_reads_as_the_same_map() {
        let text = r#"
            cluster = "a \"b\"\\\u0007"
            epoch = 7
            folders = 100
            [access]
            token_file = "/run/secrets/hydra"
            ca_certificate = "/etc/hydra/ca.pem"
            [client]
            attempts = 2
            read_from = "any"
            [servers]
            s1 = { url = "https://h:1", zone = "r", capacity = 2.5, sync = "u@h:/x" }
            s2 = { url = "http://h:2" }
            [[route]]
            folders = "1-98, 0,99"
            primary = "s1"
            [[pool]]
            name = "chat"
            match = ["chat/*/*", "*/messages/*"]
            [pool.client]
            deadline = "1500ms"
            fallback_mode = "off"
            [[pool.route]]
            folders = "0-99"
            primary = "s2"
        "#;
        let map = ClientMap::from_toml(text).expect("a map");
        let written = map.to_toml();
        let again = ClientMap::from_toml(&written).unwrap_or_else(|error| panic!("{error} in\n{written}"));
        assert_eq!(again.to_toml(), written);
        assert_eq!((again.cluster(), again.epoch(), again.servers()), (map.cluster(), 7, map.servers()));
        assert_eq!((again.access(), again.routes("chat").count()), (map.access(), 1));
        assert!(written.contains("folders = \"0-99\"") && written.contains("deadline = \"1500ms\""), "{written}");
    }
}
