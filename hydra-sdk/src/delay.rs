//! How long to wait before the same question is put again. The only module that names the `backoff` crate.
//!
//! `backoff` is no longer maintained, so only its arithmetic is used: its retry loops are not even
//! compiled. Its jitter is added after its ceiling, so ceilings are given at half height with a
//! factor of ±100 %, which makes every delay uniform between 0 and the ceiling ("full jitter").

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// The first ceiling.
const BASE: Duration = Duration::from_millis(50);
/// The highest ceiling.
const CAP: Duration = Duration::from_secs(1);

/// Delays that are uniform between 0 and a ceiling of 50, 100, 200 … 1 000 ms.
#[derive(Debug)]
pub(crate) struct Delays(ExponentialBackoff);

impl Delays {
    pub(crate) fn new() -> Delays {
        Delays::between(BASE, CAP)
    }

    /// Delays below a ceiling that doubles from `base` to `cap`.
    pub(crate) fn between(base: Duration, cap: Duration) -> Delays {
        let arithmetic = ExponentialBackoffBuilder::new()
            .with_initial_interval(base / 2)
            .with_max_interval(cap.max(base) / 2)
            .with_multiplier(2.0)
            .with_randomization_factor(1.0)
            .with_max_elapsed_time(None)
            .build();
        Delays(arithmetic)
    }

    /// The next delay.
    pub(crate) fn next(&mut self) -> Duration {
        // Without a longest elapsed time the arithmetic never ends; the cap stands in for the impossible.
        self.0.next_backoff().unwrap_or(CAP)
    }
}

/// Anything from 0 to 1, each as likely.
pub(crate) fn chance() -> f64 {
    const WHOLE: Duration = Duration::from_secs(1);
    Delays::between(WHOLE, WHOLE).next().as_secs_f64().clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_fill_the_space_below_a_doubling_ceiling() {
        let runs: Vec<Vec<Duration>> = (0..2_000)
            .map(|_| {
                let mut delays = Delays::new();
                (0..7).map(|_| delays.next()).collect()
            })
            .collect();
        for (step, ceiling) in [50, 100, 200, 400, 800, 1000, 1000].into_iter().enumerate() {
            let ceiling = Duration::from_millis(ceiling);
            let longest = runs.iter().map(|run| run[step]).max().expect("runs");
            let mean = runs.iter().map(|run| run[step]).sum::<Duration>() / 2_000;
            assert!(longest <= ceiling + Duration::from_millis(1), "step {step}: {longest:?}");
            assert!(longest > ceiling * 9 / 10, "step {step}: {longest:?}");
            assert!(mean > ceiling * 4 / 10 && mean < ceiling * 6 / 10, "step {step}: {mean:?}");
        }
    }
}
