//! `hydra-router policy`: the policies of all servers of a map. Servers do not tell each other, so a policy is registered
//! on each of them, and what each said is printed.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use futures_util::future::join_all;
use hydra_core::wire::{PoliciesBody, PolicyBody, Problem, policy_path};
use hydra_core::{Pattern, Policy};
use hydra_sdk::{ClientMap, ForwardBody, ForwardRequest, Hydra, OpClass};
use serde::Serialize;

use crate::Failure;
use crate::flags::Output;
use crate::live::{PATIENCE, ask_all, on_runtime};
use crate::output::{line, pretty, print};

/// What is registered where.
#[derive(Debug, Args)]
#[command(after_help = "The file is TOML, a table for each pattern with the members of a policy:\n\n  \
    [\"users/profiles/*\"]\n  writeInterval = \"0\"\n  idleEvict = \"10m\"\n\n\
    Members that are not written take their default.")]
pub(crate) struct ApplyFlags {
    /// File with the policies
    file: PathBuf,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = "hydra.toml")]
    map: PathBuf,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ShowPoliciesFlags {
    /// Client map
    #[arg(long, env = "HYDRA_MAP", value_name = "FILE", default_value = "hydra.toml")]
    map: PathBuf,
    /// How the policies are printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What became of one policy on one server.
#[derive(Debug, Serialize)]
struct Applied {
    server: String,
    pattern: Pattern,
    /// `unchanged`, `changed`, `new`, `failed`; with a dry run what it would be.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Registers the policies of a file on every server.
pub(crate) fn apply(flags: &ApplyFlags) -> Result<(), Failure> {
    let wanted = read(&flags.file)?;
    let map = ClientMap::from_file(&flags.map)?;
    let all = on_runtime(async {
        let hydra = Hydra::with_map(map.clone())?;
        let known = ask_all::<PoliciesBody>(&hydra, &map, "/v1/policies").await;
        let asked =
            known.into_iter().map(|(server, known)| apply_at(&hydra, &server.id, known, &wanted, flags.dry_run));
        Ok::<_, Failure>(join_all(asked).await.into_iter().flatten().collect::<Vec<Applied>>())
    })??;
    print(|out| match flags.output {
        Output::Table => all.iter().try_for_each(|applied| applied.row(out)),
        Output::Json => pretty(out, &all),
        Output::Ndjson => all.iter().try_for_each(|applied| line(out, applied)),
    })?;
    let failed = all.iter().filter(|applied| applied.error.is_some()).count();
    match failed {
        0 => Ok(()),
        _ => Err(Failure::failed(format!("{failed} of {} could not be registered; run it again", all.len()))),
    }
}

/// The policies of a file, each within its limits.
fn read(path: &Path) -> Result<BTreeMap<Pattern, Policy>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    let refuse = |why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", path.display()));
    let tables: BTreeMap<String, Policy> = toml::from_str(&text).map_err(|error| refuse(&error))?;
    let mut policies = BTreeMap::new();
    for (pattern, policy) in tables {
        policy.check().map_err(|error| refuse(&format!("[{pattern:?}]: {error}")))?;
        policies.insert(pattern.parse::<Pattern>().map_err(|error| refuse(&error))?, policy);
    }
    if policies.is_empty() { Err(refuse(&"there is no policy in it")) } else { Ok(policies) }
}

async fn apply_at(
    hydra: &Hydra,
    server: &str,
    known: Result<PoliciesBody, String>,
    wanted: &BTreeMap<Pattern, Policy>,
    is_dry: bool,
) -> Vec<Applied> {
    let mut all = Vec::new();
    for (pattern, policy) in wanted {
        let mut applied =
            Applied { server: server.to_owned(), pattern: pattern.clone(), outcome: "failed", error: None };
        match &known {
            Err(why) => applied.error = Some(why.clone()),
            Ok(known) => {
                let before = known.policies.iter().find(|known| known.pattern == *pattern);
                let outcome = match before {
                    Some(before) if before.policy == *policy => "unchanged",
                    Some(_) => "changed",
                    None => "new",
                };
                let is_done = is_dry || outcome == "unchanged";
                let put = if is_done { Ok(()) } else { register(hydra, server, pattern, policy).await };
                match put {
                    Ok(()) => applied.outcome = outcome,
                    Err(why) => applied.error = Some(why),
                }
            }
        }
        all.push(applied);
    }
    all
}

async fn register(hydra: &Hydra, server: &str, pattern: &Pattern, policy: &Policy) -> Result<(), String> {
    let body = serde_json::to_vec(policy).map_err(|error| error.to_string())?;
    let mut request = ForwardRequest::new(OpClass::Overwrite, "PUT", policy_path(pattern))
        .with_body("application/json", ForwardBody::Whole(body.into()));
    request.deadline = Some(PATIENCE);
    let answer = hydra.forward_to(server, request).await.map_err(|error| match error.attempts() {
        [attempt, ..] => attempt.error.clone(),
        [] => error.to_string(),
    })?;
    if (200..300).contains(&answer.status) {
        return Ok(());
    }
    let status = answer.status;
    let body = answer.body.collect().await.map_err(|error| error.to_string())?;
    let problem: Option<Problem> = serde_json::from_slice(&body).ok();
    Err(problem.map_or_else(|| format!("answered {status}"), |problem| problem.detail))
}

/// A policy and who has it like that.
#[derive(Debug, Serialize)]
struct Held {
    pattern: Pattern,
    policy: Policy,
    servers: Vec<String>,
    /// Servers that answered and do not have it, or another one.
    missing: Vec<String>,
}

/// Prints what servers have.
pub(crate) fn show(flags: &ShowPoliciesFlags) -> Result<(), Failure> {
    let map = ClientMap::from_file(&flags.map)?;
    let answers = on_runtime(async {
        let hydra = Hydra::with_map(map.clone())?;
        Ok::<_, Failure>(ask_all::<PoliciesBody>(&hydra, &map, "/v1/policies").await)
    })??;
    let mut held: Vec<Held> = Vec::new();
    let said = || answers.iter().filter_map(|(server, answer)| Some((&server.id, answer.as_ref().ok()?)));
    for (server, body) in said() {
        for PolicyBody { pattern, policy } in &body.policies {
            match held.iter_mut().find(|held| held.pattern == *pattern && held.policy == *policy) {
                Some(known) => known.servers.push(server.clone()),
                None => held.push(Held {
                    pattern: pattern.clone(),
                    policy: policy.clone(),
                    servers: vec![server.clone()],
                    missing: Vec::new(),
                }),
            }
        }
    }
    for held in &mut held {
        let missing = said().map(|(server, _)| server).filter(|server| !held.servers.contains(server));
        held.missing = missing.cloned().collect();
    }
    held.sort_by(|a, b| a.pattern.cmp(&b.pattern));
    print(|out| match flags.output {
        Output::Table => held.iter().try_for_each(|held| held.row(out)),
        Output::Json => pretty(out, &held),
        Output::Ndjson => held.iter().try_for_each(|held| line(out, held)),
    })?;
    let silent =
        answers.iter().filter_map(|(server, answer)| Some(format!("{} {}", server.id, answer.as_ref().err()?)));
    let silent: Vec<String> = silent.collect();
    if silent.is_empty() { Ok(()) } else { Err(Failure::unavailable(silent.join("; "))) }
}

impl Applied {
    fn row(&self, out: &mut dyn Write) -> io::Result<()> {
        let why = self.error.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        writeln!(out, "{:<12} {:<32} {}{why}", self.server, self.pattern.to_string(), self.outcome)
    }
}

impl Held {
    fn row(&self, out: &mut dyn Write) -> io::Result<()> {
        let missing = match self.missing.as_slice() {
            [] => String::new(),
            missing => format!("; not on {}", missing.join(", ")),
        };
        writeln!(out, "{:<32} on {}{missing}", self.pattern.to_string(), self.servers.join(", "))?;
        writeln!(out, "    {}", serde_json::to_string(&self.policy)?)
    }
}
