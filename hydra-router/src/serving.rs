//! `hydra-router serve`: from settings to a gateway that ends well.

use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use hydra_router::{Config, Tls, check_id, run};
use hydra_sdk::{ClientMap, Hydra};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use crate::Failure;
use crate::flags::{LogFormat, ServeFlags, Settings};

/// The most threads that serve connections: each has connections of its own to every server.
const MAX_THREADS: usize = 16;

/// Serves until a signal ends it.
pub(crate) fn serve(flags: ServeFlags) -> Result<(), Failure> {
    let settings = flags.resolve()?;
    log_to_stderr(&settings)?;
    let addresses = addresses(&settings)?;
    let config = config(&settings)?;
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(serve_until_signalled(&settings, config, &addresses));
    runtime.shutdown_background();
    outcome
}

async fn serve_until_signalled(settings: &Settings, config: Config, addresses: &[SocketAddr]) -> Result<(), Failure> {
    let signals = Signals::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
    let path = settings.map();
    let hydra = Hydra::builder().map_file(&path).connect().await?;
    let listener = TcpListener::bind(addresses)
        .await
        .map_err(|error| Failure::unavailable(format!("cannot listen on {}: {error}", settings.listen())))?;
    announce(&listener, &hydra, &config, &path);
    let (stop, stopped) = oneshot::channel();
    let serving = run(listener, hydra.clone(), config, async {
        let _ = stopped.await;
    });
    tokio::select! {
        served = serving => served.map_err(|error| Failure::failed(format!("cannot serve: {error}"))),
        () = signals.two(stop) => Ok(()),
        () = reload_at_hangup(signals_of_hangup()?, &hydra, &path) => Ok(()),
    }
}

/// The signals that end a router.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(crate) async fn next(&mut self) {
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

fn signals_of_hangup() -> Result<Signal, Failure> {
    signal(SignalKind::hangup()).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))
}

/// Reads the map again at every SIGHUP; one that is refused leaves the map in force. Never ends.
async fn reload_at_hangup(mut hangup: Signal, hydra: &Hydra, path: &Path) {
    while hangup.recv().await.is_some() {
        let read = ClientMap::from_file(path).map_err(hydra_sdk::Error::from);
        match read.and_then(|map| hydra.set_map(map)) {
            Ok(()) => tracing::info!(path = %path.display(), "the client map was read again"),
            Err(error) => tracing::warn!(%error, "the client map stays as it was"),
        }
    }
    std::future::pending().await
}

/// Where to listen. Beyond this machine only when that was asked for in so many words.
fn addresses(settings: &Settings) -> Result<Vec<SocketAddr>, Failure> {
    let text = settings.listen();
    let found = text
        .to_socket_addrs()
        .map_err(|error| Failure::usage(format!("--listen {text:?} is no address: {error}; write 127.0.0.1:4938")))?;
    let found: Vec<SocketAddr> = found.collect();
    match found.iter().find(|address| !address.ip().is_loopback()) {
        Some(address) if settings.insecure_no_auth != Some(true) => Err(Failure::usage(format!(
            "--listen {text} can be reached from other machines ({address}), and a router itself asks nobody \
             who they are: it passes tokens on. Listen on 127.0.0.1, or add --insecure-no-auth if the servers demand \
             tokens and --own-token is not given, or if the network itself keeps others out"
        ))),
        _ => Ok(found),
    }
}

fn config(settings: &Settings) -> Result<Config, Failure> {
    let default = Config::default();
    let id = settings.id.clone().unwrap_or_else(|| default.id.clone());
    check_id(&id).map_err(Failure::usage)?;
    let shutdown_grace = settings.shutdown_grace.unwrap_or(default.shutdown_grace);
    let tls = match (&settings.tls_cert, &settings.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::open(certificate, key).map_err(Failure::usage)?),
        (None, None) => None,
        (Some(_), None) => return Err(Failure::usage("--tls-cert needs --tls-key, the key of the certificate")),
        (None, Some(_)) => return Err(Failure::usage("--tls-key needs --tls-cert, the certificate of the key")),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    Ok(Config { id, shutdown_grace, own_token: settings.own_token.unwrap_or(false), tls, threads, ..default })
}

/// Says on stdout that the router is ready, and on stderr what is questionable about the map.
fn announce(listener: &TcpListener, hydra: &Hydra, config: &Config, path: &Path) {
    let (Ok(address), Some(map)) = (listener.local_addr(), hydra.map()) else { return };
    for warning in map.warnings() {
        tracing::warn!("{}: {warning}", path.display());
    }
    let host =
        if address.ip().is_unspecified() { format!("127.0.0.1:{}", address.port()) } else { address.to_string() };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let text = format!(
        "hydra-router {} listening on {scheme}://{address}, map {} (cluster {}, epoch {}, {} folders, {} servers)\n\
         try: curl -X PUT {scheme}://{host}/v1/kv/demo/hello/world/greeting -d '\"hello\"'\n",
        config.id,
        path.display(),
        map.cluster(),
        map.epoch(),
        map.folders(),
        map.servers().len(),
    );
    // Whoever started the router may not be reading.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn log_to_stderr(settings: &Settings) -> Result<(), Failure> {
    let text = settings.log.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(text)
        .map_err(|error| Failure::usage(format!("the log filter {text:?} cannot be read: {error}")))?;
    let format = settings.log_format.unwrap_or_default();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let ansi = format == LogFormat::Auto && std::io::stderr().is_terminal() && !no_color;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    match format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Auto | LogFormat::Text => builder.init(),
    }
    Ok(())
}
