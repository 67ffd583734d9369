//! How much may be asked again: a share of what was asked, and a little per second.
//!
//! Without it, calls that ask again make an overloaded server more so. Each request puts a share of a token in, each
//! repetition takes one out; tokens nobody used are gone after ten seconds. A server has two: one for asking
//! it again, one for asking it in place of another that may have done the work.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How long a token lasts, in seconds.
const LASTS: u64 = 10;

/// Tokens for repetitions.
#[derive(Debug)]
pub(crate) struct Budget {
    /// How much of a token a request is worth.
    share: f64,
    /// How many come by themselves.
    per_second: f64,
    bucket: Mutex<Bucket>,
}

impl Budget {
    /// For asking the same server again: a tenth of the requests, and 2 per second.
    pub(crate) fn for_retries() -> Budget {
        Budget::new(0.1, 2.0, Instant::now())
    }

    /// For asking a fallback about what the primary may have done: a fifth of the requests, and 10 per second.
    pub(crate) fn for_failovers() -> Budget {
        Budget::new(0.2, 10.0, Instant::now())
    }

    fn new(share: f64, per_second: f64, now: Instant) -> Budget {
        // Half of what can be saved up, so that a client may repeat something at once.
        let reserve = per_second * LASTS as f64 / 2.0;
        let bucket = Bucket { begun: now, second: 0, deposits: [0.0; LASTS as usize], reserve, filled: now };
        Budget { share, per_second, bucket: Mutex::new(bucket) }
    }

    /// A request was made.
    pub(crate) fn deposit(&self) {
        self.deposit_at(Instant::now());
    }

    /// Takes a token for a repetition, if there is one.
    pub(crate) fn withdraw(&self) -> bool {
        self.withdraw_at(Instant::now())
    }

    fn deposit_at(&self, now: Instant) {
        let mut bucket = self.bucket(now);
        let second = bucket.second;
        bucket.deposits[(second % LASTS) as usize] += self.share;
    }

    fn withdraw_at(&self, now: Instant) -> bool {
        self.bucket(now).take()
    }

    /// The bucket as it is now. Its numbers are whole after every line, so a panic elsewhere cannot have torn them.
    fn bucket(&self, now: Instant) -> std::sync::MutexGuard<'_, Bucket> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.advance(now, self.per_second);
        bucket
    }
}

#[derive(Debug)]
struct Bucket {
    begun: Instant,
    /// The second that deposits go to.
    second: u64,
    /// What requests put in, by second.
    deposits: [f64; LASTS as usize],
    /// What came by itself.
    reserve: f64,
    filled: Instant,
}

impl Bucket {
    fn advance(&mut self, now: Instant, per_second: f64) {
        let second = now.saturating_duration_since(self.begun).as_secs();
        for passed in self.second + 1..=second.min(self.second + LASTS) {
            self.deposits[(passed % LASTS) as usize] = 0.0;
        }
        self.second = self.second.max(second);
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.reserve = (self.reserve + since * per_second).min(per_second * LASTS as f64);
        self.filled = self.filled.max(now);
    }

    /// Takes one token: what would be gone first, first.
    fn take(&mut self) -> bool {
        // Many tenths make a little less than a whole.
        const WHOLE: f64 = 1.0 - 1e-9;
        if self.deposits.iter().sum::<f64>() + self.reserve < WHOLE {
            return false;
        }
        let mut open = 1.0;
        for age in (0..LASTS).rev() {
            let Some(second) = self.second.checked_sub(age) else { continue };
            let deposit = &mut self.deposits[(second % LASTS) as usize];
            let taken = deposit.min(open);
            *deposit -= taken;
            open -= taken;
        }
        self.reserve = (self.reserve - open).max(0.0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// How many of `tries` repetitions the budget allows right now.
    fn allowed(budget: &Budget, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| budget.withdraw_at(now)).count()
    }

    #[test]
    fn a_tenth_and_two_per_second() {
        let now = Instant::now();
        let budget = Budget::new(0.1, 2.0, now);
        assert_eq!(allowed(&budget, 100, now), 10, "what it begins with");
        let mut again = 0;
        for n in 0..10_000u64 {
            let at = now + Duration::from_millis(n);
            budget.deposit_at(at);
            again += usize::from(budget.withdraw_at(at));
        }
        assert!((1_000..=1_020).contains(&again), "{again}");
    }

    #[test]
    fn tokens_nobody_used_are_gone_after_ten_seconds() {
        let now = Instant::now();
        let budget = Budget::new(0.1, 2.0, now);
        (0..1_000).for_each(|_| budget.deposit_at(now));
        assert_eq!(allowed(&budget, 1_000, now + Duration::from_millis(9_900)), 120, "100 of requests, 20 of time");
        (0..1_000).for_each(|_| budget.deposit_at(now + Duration::from_secs(10)));
        assert_eq!(allowed(&budget, 1_000, now + Duration::from_secs(20)), 20);
        assert_eq!(allowed(&budget, 1_000, now + Duration::from_secs(3_600)), 20);
    }

    #[test]
    fn it_fills_again_after_an_outage() {
        let now = Instant::now();
        let budget = Budget::new(0.2, 10.0, now);
        assert_eq!(allowed(&budget, 1_000, now), 50);
        assert_eq!(allowed(&budget, 1_000, now + Duration::from_secs(1)), 10);
    }
}
