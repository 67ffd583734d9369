//! What an operator may tell a running server: `/v1/admin`.

use http::{Method, StatusCode};
use hydra_core::wire::read_object;
use hydra_core::{Error, ErrorCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::answer::{self, Response};
use crate::app::{Call, blocking};
use crate::body::Limit;
use crate::conditions::{no_conditions, plain_body};
use crate::config::{Config, MAX_SMALL_BODY_BYTES};
use crate::logging::LogFilter;
use crate::query::Query;

const LOG_LIMIT: Limit = Limit { bytes: MAX_SMALL_BODY_BYTES, code: ErrorCode::BodyTooLarge, what: "the filter" };

/// Sets the server aside, or takes it back: from then on requests are refused, so that clients go to its fallbacks,
/// and everything acknowledged is on disk when this is answered. Ends nothing.
pub(crate) async fn drain(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let drained = call.head.method == Method::POST;
    call.app.set_drained(drained);
    tracing::warn!(token = call.access.name(), drained, "an operator set the server aside or took it back");
    if drained {
        let engine = call.app.engine.clone();
        blocking(move || engine.flush(None)).await?;
        call.mark_synced();
    }
    answer::json(StatusCode::OK, &json!({"draining": call.app.is_draining()}))
}

/// Which lines of the log are written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogBody {
    filter: String,
}

/// Says which lines of the log are written, or changes that until the server ends; DELETE goes back to what it was
/// started with.
pub(crate) async fn log(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let log = log_of(&call.app.config)?.clone();
    match call.head.method {
        Method::PUT => {
            no_conditions(&call.head.headers)?;
            plain_body(&call.head.headers)?;
            let bytes = call.read_body(LOG_LIMIT).await?;
            let body: LogBody = read_object(&bytes, "the filter", r#"{"filter":"hydra_server=debug,info"}"#)?;
            log.set(&body.filter)?;
            tracing::warn!(token = call.access.name(), filter = body.filter, "an operator changed what is logged");
        }
        Method::DELETE => {
            log.reset()?;
            tracing::warn!(token = call.access.name(), "an operator took back what is logged");
        }
        _ => {}
    }
    answer::json(StatusCode::OK, &LogBody { filter: log.current() })
}

fn log_of(config: &Config) -> Result<&LogFilter, Error> {
    let none = || Error::new(ErrorCode::NotFound, "the log belongs to the program that this server is a part of");
    config.log.as_ref().ok_or_else(none)
}

/// Reads the files of tokens and of TLS now, in place of at their next use. If one of them is refused, what was read
/// before stays in force for all of them.
pub(crate) async fn reload(call: &mut Call) -> Result<Response, Error> {
    Query::parse(call.head.uri.query(), &[])?;
    let (tokens, tls) = (call.app.config.tokens.clone(), call.app.config.tls.clone());
    let read = blocking(move || {
        let tokens = tokens.as_ref().map(|tokens| tokens.files().read_again()).transpose()?;
        let tls = tls.as_ref().map(|tls| tls.files().read_again()).transpose()?;
        let tokens = tokens.map_or_else(Vec::new, |fresh| fresh.enforce());
        Ok([tokens, tls.map_or_else(Vec::new, |fresh| fresh.enforce())].concat())
    });
    let read = read.await?;
    tracing::info!(token = call.access.name(), files = ?read, "an operator had files read again");
    answer::json(StatusCode::OK, &json!({"read": read}))
}
