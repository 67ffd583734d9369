//! Which lines of the log are written, which may change while the server runs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hydra_core::{Error, ErrorCode};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Which lines of the log of this process are written. Clones are the same filter.
///
/// A filter is a level (`off`, `error`, `warn`, `info`, `debug` or `trace`), or pairs of target and level with commas and
/// a level for the rest: `hydra_core=debug,info`; see [`EnvFilter`] for all that it may say.
#[derive(Clone)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    /// What it was made with.
    first: Arc<str>,
    current: Arc<Mutex<String>>,
}

impl LogFilter {
    /// A filter, and the layer that holds back everything else: it belongs below the layers that write.
    ///
    /// ```
    /// use hydra_server::{Config, LogFilter};
    /// use tracing_subscriber::layer::SubscriberExt;
    ///
    /// let (log, filter) = LogFilter::new("info")?;
    /// let subscriber = tracing_subscriber::registry().with(filter).with(tracing_subscriber::fmt::layer());
    /// # tracing::subscriber::with_default(subscriber, || ());
    /// let config = Config { log: Some(log), ..Config::default() };
    /// # let _ = config;
    /// # Ok::<(), hydra_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-parameter` when the text is no filter.
    pub fn new(text: &str) -> Result<(LogFilter, impl Layer<Registry> + Send + Sync + use<>), Error> {
        let (layer, handle) = reload::Layer::new(parse(text)?);
        Ok((LogFilter { handle, first: text.into(), current: Arc::new(Mutex::new(text.to_owned())) }, layer))
    }

    /// What is written now.
    pub fn current(&self) -> String {
        self.lock().clone()
    }

    /// Changes what is written.
    ///
    /// # Errors
    /// `invalid-parameter` when the text is no filter; `internal` when the layer is gone. Nothing is changed then.
    pub fn set(&self, text: &str) -> Result<(), Error> {
        let filter = parse(text)?;
        let mut current = self.lock();
        let gone = |error| Error::new(ErrorCode::Internal, format!("the log cannot be changed: {error}"));
        self.handle.reload(filter).map_err(gone)?;
        text.clone_into(&mut current);
        Ok(())
    }

    /// Goes back to what it was made with.
    ///
    /// # Errors
    /// `internal` when the layer is gone.
    pub fn reset(&self) -> Result<(), Error> {
        self.set(&self.first)
    }

    /// The text is whole at every moment, so a panic elsewhere cannot have torn it.
    fn lock(&self) -> MutexGuard<'_, String> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.current()).finish()
    }
}

fn parse(text: &str) -> Result<EnvFilter, Error> {
    let refuse = |why: &str| {
        let allowed = "a level (off, error, warn, info, debug, trace), or pairs like hydra_core=debug and a level";
        Error::new(ErrorCode::InvalidParameter, format!("filter {text:?} {why}; write {allowed}, with commas"))
    };
    // A word alone would be a target of which everything is written, and of all others nothing: a level misspelt.
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    let is_bare = |piece: &&str| !piece.contains(['=', '[']) && !is_level(piece);
    if let Some(bare) = text.split(',').map(str::trim).find(is_bare) {
        return Err(refuse(&format!("has {bare:?}, which is no level")));
    }
    EnvFilter::try_new(text).map_err(|error| refuse(&format!("is not understood ({error})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_pairs_and_no_misspelt_word() {
        for good in ["info", "off", "hydra_core=debug,info", "WARN", "hydra_server[request]=trace,error"] {
            assert_eq!(LogFilter::new(good).expect(good).0.current(), good);
        }
        for bad in ["", "debgu", "hydra_core=loud", "info,hydra_core", "info,,"] {
            let error = LogFilter::new(bad).map(|(log, _)| log).expect_err(bad);
            assert_eq!(error.code(), ErrorCode::InvalidParameter);
            assert!(error.to_string().contains("write a level"), "{error}");
        }
    }
}
