//! `hydra-server serve`: from settings to a server that ends well.

use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};

use hydra_core::{Engine, EngineOptions, SwampName};
use hydra_server::{Config, LogFilter, Tls, Tokens, check_origin, run};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::Failure;
use crate::flags::{LogFormat, ServeFlags, Settings};

/// Threads that may wait for the disk: hydrations, flushes, large bodies.
const BLOCKING_THREADS: usize = 128;

/// Files that are not for connections, however few there are.
const FILES_KEPT: usize = 40;

/// Serves until a signal ends it.
pub(crate) fn serve(flags: ServeFlags) -> Result<(), Failure> {
    let settings = flags.resolve()?;
    let log = log_to_stderr(&settings)?;
    let addresses = addresses(&settings)?;
    let config = Config { log: Some(log), ..config(&settings)? };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(serve_until_signalled(settings, config, &addresses));
    // A thread that hangs on a broken disk must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn serve_until_signalled(settings: Settings, config: Config, addresses: &[SocketAddr]) -> Result<(), Failure> {
    let signals = Signals::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
    let listener = TcpListener::bind(addresses)
        .await
        .map_err(|error| Failure { code: 5, message: format!("cannot listen on {}: {error}", settings.listen()) })?;
    let options = engine_options(settings);
    let engine = off_thread(move || Engine::open(options)).await?;
    announce(&listener, &engine, &config);
    let (stop, stopped) = oneshot::channel();
    let serving = run(listener, engine.clone(), config, async {
        let _ = stopped.await;
    });
    let served = tokio::select! {
        served = serving => served.map_err(|error| Failure::failed(format!("cannot serve: {error}"))),
        () = signals.two(stop) => Ok(()),
    };
    off_thread(move || engine.close()).await?;
    tracing::info!("everything is on disk");
    served
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> hydra_core::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Failure::from),
        Err(error) => Err(Failure::failed(format!("a thread failed: {error}"))),
    }
}

/// The signals that end a server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The first signal begins the end, the second one stops waiting for requests.
    async fn two(mut self, stop: oneshot::Sender<()>) {
        self.next().await;
        tracing::info!("finishing requests; a second signal stops waiting for them");
        let _ = stop.send(());
        self.next().await;
        tracing::warn!("not waiting for requests any longer");
    }
}

/// Where to listen. Beyond this machine only when that was asked for in so many words.
fn addresses(settings: &Settings) -> Result<Vec<SocketAddr>, Failure> {
    let text = settings.listen();
    let found = text
        .to_socket_addrs()
        .map_err(|error| Failure::usage(format!("--listen {text:?} is no address: {error}; write 127.0.0.1:4937")))?;
    let found: Vec<SocketAddr> = found.collect();
    let open = found.iter().find(|address| !address.ip().is_loopback());
    match open {
        Some(address) if settings.tokens.is_none() && settings.insecure_no_auth != Some(true) => {
            Err(Failure::usage(format!(
                "--listen {text} can be reached from other machines ({address}), and no tokens are demanded: anybody \
                 could read and change everything.\n\
                 Make a token and demand it:  hydra-server token new --name admin --scopes r,w,a,destroy --swamps '*/*/*' \
                 --tokens tokens.json\n\
                 \x20                            hydra-server --listen {text} --tokens tokens.json --tls-cert … --tls-key …\n\
                 Or listen on 127.0.0.1; or add --insecure-no-auth if the network itself keeps others out"
            )))
        }
        _ => Ok(found),
    }
}

fn config(settings: &Settings) -> Result<Config, Failure> {
    let default = Config::default();
    let tls = match (&settings.tls_cert, &settings.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::open(certificate, key)?),
        (None, None) => None,
        (Some(_), None) => return Err(Failure::usage("--tls-cert needs --tls-key, the key of the certificate")),
        (None, Some(_)) => return Err(Failure::usage("--tls-key needs --tls-cert, the certificate of the key")),
    };
    let allow_origins = settings.allow_origin.clone().unwrap_or_default();
    for origin in &allow_origins {
        check_origin(origin).map_err(|why| Failure::usage(format!("--allow-origin {why}")))?;
    }
    Ok(Config {
        max_connections: default.max_connections.min(room_for_connections()),
        pool: settings.pool.clone().unwrap_or(default.pool),
        shutdown_grace: settings.shutdown_grace.unwrap_or(default.shutdown_grace),
        tokens: settings.tokens.as_ref().map(Tokens::open).transpose()?,
        protect_metrics: settings.protect_metrics.unwrap_or(default.protect_metrics),
        tls,
        allow_origins,
        ..default
    })
}

/// Raises the limit of open files as far as it goes, and leaves a quarter of it to the engine, and no fewer than
/// engine and process cannot do without.
fn room_for_connections() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let files = limit.current.and_then(|files| usize::try_from(files).ok());
    files.map_or(usize::MAX, |files| (files / 4 * 3).min(files.saturating_sub(FILES_KEPT)).max(8))
}

fn engine_options(settings: Settings) -> EngineOptions {
    let mut options = EngineOptions::new(settings.data.unwrap_or_else(|| "./hydra-data".into()));
    options.folders_total = settings.folders_total;
    options.server_id = settings.id;
    options.cluster = settings.cluster;
    options.owned = settings.folders;
    options.standby = settings.standby.unwrap_or_default();
    options.copied = settings.copied.unwrap_or_default();
    options.foreign_poll = settings.foreign_poll.unwrap_or(options.foreign_poll);
    options.memory_budget = settings.memory.map_or(options.memory_budget, |memory| memory.0);
    options.gc_delay = settings.gc_delay.unwrap_or(options.gc_delay);
    options.sweep = settings.sweep.unwrap_or(options.sweep);
    options
}

/// Says on stdout that the server is ready, and how to try it.
fn announce(listener: &TcpListener, engine: &Engine, config: &Config) {
    let Ok(address) = listener.local_addr() else { return };
    let (owned, standby) = engine.folders();
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let copies = if standby.is_empty() { String::new() } else { format!(", copies of {standby}") };
    let mut text = format!(
        "hydra-server {} listening on {scheme}://{address} (data in {}, folders {} of {}{copies})\n",
        engine.server_id(),
        engine.data_dir().display(),
        if owned.is_empty() { "none".to_owned() } else { owned.to_string() },
        engine.folder_count(),
    );
    // A name whose folder is here, so that the line works as it stands.
    let demo = SwampName::new("demo", "hello", "world").ok();
    if let Some(name) = demo.and_then(|name| name.in_folders(&owned, engine.folder_count()).next()) {
        let host =
            if address.ip().is_unspecified() { format!("127.0.0.1:{}", address.port()) } else { address.to_string() };
        let token = if config.tokens.is_some() { " -H \"Authorization: Bearer $TOKEN\"" } else { "" };
        text.push_str(&format!("try: curl -X PUT{token} {scheme}://{host}/v1/kv/{name}/greeting -d '\"hello\"'\n"));
    }
    // Whoever started the server may not be reading.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn log_to_stderr(settings: &Settings) -> Result<LogFilter, Failure> {
    let (log, filter) = LogFilter::new(settings.log.as_deref().unwrap_or("info"))
        .map_err(|error| Failure::usage(format!("--log: {error}")))?;
    let format = settings.log_format.unwrap_or_default();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let ansi = format == LogFormat::Auto && std::io::stderr().is_terminal() && !no_color;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
    let filtered = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => filtered.with(lines.json()).init(),
        LogFormat::Auto | LogFormat::Text => filtered.with(lines).init(),
    }
    Ok(log)
}
