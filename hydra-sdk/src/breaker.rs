//! When a server is asked and when it is not: a state machine without clock, network or chance.
//!
//! ```text
//!            3 hard failures in a row, or 1 that a probe confirms
//!            5 soft failures in a row
//!            less than 80 % of 20 or more tries within 30 s          two probes, or a request
//!   CLOSED ───────────────────────────────────────────────────▶ OPEN ────────────────▶ HALF-OPEN
//!     ▲                                                          ▲     any failure          │
//!     │                                                          └──────────────────────────┤
//!     └─────────── 3 successes with 1 request at a time, 3 with 2, 3 with 4 ────────────────┘
//! ```
//!
//! *Hard* is a server that takes no connection: refused, no route, unknown host, connect timeout. *Soft* is a connection
//! that broke, or a proxy that spoke in the server's place. An answer that did not come in time is neither: a slow server
//! is not a dead one. Five of them in a row open it only if a probe is not answered either. Every answer of the server itself is a success, also a refusal.
//!
//! An open breaker is left alone for half to all of a period that doubles with every failure, then probed. Probes
//! also count as successes, so that a server without traffic comes back. Closed again, it is *trusted* when it has
//! been back for the hold-down; until then it is asked after others.

use std::time::{Duration, Instant};

/// Failures in a row that open it.
const HARD: u32 = 3;
const SOFT: u32 = 5;
/// So many answers that did not come in time open it if a probe is not answered either.
const SILENT: u32 = 5;
/// How many probes in a row begin the way back.
const PROBES: u32 = 2;
/// How many requests may be under way, stage by stage of the way back.
const STAGES: [u32; 3] = [1, 2, 4];
/// How many successes end a stage.
const SUCCESSES: u32 = 3;
/// One try per server and this time while it is open, whoever asks.
const FAIL_OPEN: Duration = Duration::from_millis(100);
/// The longest period, in units of the first one.
const LONGEST: u32 = 30;

/// What a breaker is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The server answered a request.
    Success,
    /// No connection could be made.
    Hard,
    /// A connection broke, or a proxy spoke in the server's place.
    Soft,
    /// A connection stands, and no answer came in time.
    Silence,
    /// The server says that it starts or shuts down.
    Leaving,
    /// A probe was answered.
    ProbeAnswered,
    /// A probe found nobody.
    ProbeFailed,
    /// A probe was connected and not answered.
    ProbeSilent,
}

/// What came of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// A failure that a probe should look into now.
    Suspected,
    Opened,
}

/// Whether a request may go to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Yes,
    /// As many as may be are under way; soon.
    Soon,
    /// Not before this time has passed.
    NotBefore(Duration),
}

/// Where the server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant, probes: u32 },
    HalfOpen { stage: usize, successes: u32 },
}

/// The memory about one server.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    /// The first open period; probes run twice in it.
    unit: Duration,
    hold_down: Duration,
    hard: u32,
    soft: u32,
    silent: u32,
    rate: Rate,
    /// The length of the next open period, in units.
    period: u32,
    /// Since when it has answered without a failure, after it was open.
    back_since: Option<Instant>,
    /// Requests under way while it is half open.
    under_way: u32,
    next_fail_open: Option<Instant>,
}

impl Breaker {
    /// A closed breaker of a server that calls return to `hold_down` after it came back.
    pub(crate) fn new(hold_down: Duration) -> Breaker {
        let unit = (hold_down / 10).clamp(Duration::from_millis(20), Duration::from_secs(1));
        Breaker {
            state: State::Closed,
            unit,
            hold_down,
            hard: 0,
            soft: 0,
            silent: 0,
            rate: Rate::default(),
            period: 1,
            back_since: None,
            under_way: 0,
            next_fail_open: None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Closed, and not only since a moment ago.
    pub(crate) fn is_trusted(&self) -> bool {
        self.state == State::Closed && self.back_since.is_none()
    }

    /// Whether the last tries met a server that takes no connections, and nothing else is known yet.
    pub(crate) fn is_suspected(&self) -> bool {
        self.hard > 0
    }

    /// Heeds what happened; `chance` says anything from 0 to 1, and is asked only where it matters.
    pub(crate) fn heed(&mut self, signal: Signal, now: Instant, chance: impl FnOnce() -> f64) -> Change {
        match signal {
            Signal::Success | Signal::ProbeAnswered => self.success(signal, now),
            Signal::Hard | Signal::Soft => self.failure(signal, now, chance),
            Signal::Silence if self.state == State::Closed => {
                self.silent += 1;
                if self.silent >= SILENT { Change::Suspected } else { Change::Nothing }
            }
            Signal::ProbeSilent if self.state == State::Closed && self.silent < SILENT => Change::Nothing,
            Signal::ProbeFailed | Signal::ProbeSilent => self.open(now, chance),
            Signal::Silence | Signal::Leaving if self.is_open() => self.relapse(),
            Signal::Silence | Signal::Leaving => self.open(now, chance),
        }
    }

    fn success(&mut self, signal: Signal, now: Instant) -> Change {
        (self.hard, self.silent) = (0, 0);
        if signal == Signal::Success {
            self.soft = 0;
        }
        match self.state {
            State::Closed if signal == Signal::Success => self.rate.note(now, false),
            State::Closed => {}
            State::Open { until, probes } => {
                self.back_since.get_or_insert(now);
                // A request that got through says more than a probe.
                self.state = match probes + 1 {
                    _ if signal == Signal::Success => State::HalfOpen { stage: 0, successes: 1 },
                    PROBES.. => State::HalfOpen { stage: 0, successes: 0 },
                    probes => State::Open { until, probes },
                };
            }
            State::HalfOpen { stage, successes } => {
                self.state = match (successes + 1, stage + 1) {
                    (SUCCESSES.., next) if next == STAGES.len() => State::Closed,
                    (SUCCESSES.., next) => State::HalfOpen { stage: next, successes: 0 },
                    (successes, _) => State::HalfOpen { stage, successes },
                };
            }
        }
        Change::Nothing
    }

    fn failure(&mut self, signal: Signal, now: Instant, chance: impl FnOnce() -> f64) -> Change {
        match self.state {
            State::Open { .. } => return self.relapse(),
            State::HalfOpen { .. } => return self.open(now, chance),
            State::Closed => {}
        }
        self.rate.note(now, true);
        match signal {
            Signal::Hard => self.hard += 1,
            _ => self.soft += 1,
        }
        if self.hard >= HARD || self.soft >= SOFT || self.rate.is_too_low(now) {
            self.open(now, chance)
        } else if signal == Signal::Hard {
            Change::Suspected
        } else {
            Change::Nothing
        }
    }

    /// A try while it is open failed: probes begin anew, at the time they would have.
    fn relapse(&mut self) -> Change {
        if let State::Open { probes, .. } = &mut self.state {
            *probes = 0;
        }
        self.back_since = None;
        Change::Nothing
    }

    fn open(&mut self, now: Instant, chance: impl FnOnce() -> f64) -> Change {
        let was_open = self.is_open();
        let whole = self.unit * self.period;
        self.state = State::Open { until: now + whole / 2 + (whole / 2).mul_f64(chance().clamp(0.0, 1.0)), probes: 0 };
        self.period = (self.period * 2).min(LONGEST);
        (self.hard, self.soft, self.silent) = (0, 0, 0);
        (self.back_since, self.under_way) = (None, 0);
        self.rate = Rate::default();
        if was_open { Change::Nothing } else { Change::Opened }
    }

    /// Ends the way back where it has lasted for the hold-down; answers whether it did.
    pub(crate) fn trust(&mut self, now: Instant) -> bool {
        let is_over = self.back_since.is_some_and(|since| now.saturating_duration_since(since) >= self.hold_down);
        let is_trusted_now = self.state == State::Closed && is_over;
        if is_trusted_now {
            self.reset();
        }
        is_trusted_now
    }

    /// Somebody else has seen the server serve: it is tried without waiting for the end of the open period.
    pub(crate) fn vouch(&mut self) {
        if self.is_open() {
            self.state = State::HalfOpen { stage: 0, successes: 0 };
        }
    }

    /// As if nothing had ever happened.
    pub(crate) fn reset(&mut self) {
        *self = Breaker::new(self.hold_down);
    }

    /// How long until the next probe; nothing where none is needed.
    pub(crate) fn until_probe(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until, probes: 0 } => Some(until.saturating_duration_since(now)),
            State::Open { .. } | State::HalfOpen { .. } => Some(self.unit / 2),
            State::Closed => self.back_since.map(|_| self.unit),
        }
    }

    /// Whether a request may go to the server now; the clock is asked only where it matters. After `Yes` there must be a
    /// [`Breaker::release`].
    pub(crate) fn admit(&mut self, now: impl FnOnce() -> Instant) -> Admission {
        match self.state {
            State::Closed => Admission::Yes,
            State::HalfOpen { stage, .. } if self.under_way >= STAGES[stage] => Admission::Soon,
            State::HalfOpen { .. } => {
                self.under_way += 1;
                Admission::Yes
            }
            State::Open { .. } => {
                let now = now();
                let wait = self.next_fail_open.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
                if wait.is_zero() {
                    self.next_fail_open = Some(now + FAIL_OPEN);
                    return Admission::Yes;
                }
                Admission::NotBefore(wait)
            }
        }
    }

    /// A request that was admitted is over.
    pub(crate) fn release(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

/// How many tries of the last half minute failed.
#[derive(Debug, Default)]
struct Rate {
    /// By steps of [`Rate::STEP`]: tries and failures.
    steps: [(u32, u32); Rate::STEPS as usize],
    begun: Option<Instant>,
    /// The step that is counted in.
    current: u64,
}

impl Rate {
    const STEP: Duration = Duration::from_secs(5);
    const STEPS: u64 = 6;
    /// Fewer tries say nothing.
    const FEWEST: u32 = 20;

    fn note(&mut self, now: Instant, is_failure: bool) {
        self.advance(now);
        let (tries, failures) = &mut self.steps[(self.current % Rate::STEPS) as usize];
        *tries += 1;
        *failures += u32::from(is_failure);
    }

    fn is_too_low(&mut self, now: Instant) -> bool {
        self.advance(now);
        let sum = |(all, bad): (u32, u32), (tries, failures): &(u32, u32)| (all + tries, bad + failures);
        let (tries, failures) = self.steps.iter().fold((0, 0), sum);
        tries >= Rate::FEWEST && failures * 5 > tries
    }

    fn advance(&mut self, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        let step = now.saturating_duration_since(begun).as_secs() / Rate::STEP.as_secs();
        for passed in (self.current + 1..=step).take(Rate::STEPS as usize) {
            self.steps[(passed % Rate::STEPS) as usize] = (0, 0);
        }
        self.current = self.current.max(step);
    }
}

#[cfg(test)]
mod tests {
    use super::Change::{Nothing, Opened, Suspected};
    use super::Signal::{Hard, Leaving, ProbeAnswered, ProbeFailed, ProbeSilent, Silence, Soft, Success};
    use super::*;

    const HOLD_DOWN: Duration = Duration::from_secs(10);

    /// A breaker with a clock that only the test moves.
    struct Bench {
        breaker: Breaker,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { breaker: Breaker::new(HOLD_DOWN), now: Instant::now() }
        }

        fn tell(&mut self, signal: Signal) -> Change {
            self.breaker.heed(signal, self.now, || 1.0)
        }

        fn tell_all(&mut self, signals: &[Signal]) -> Vec<Change> {
            signals.iter().map(|&signal| self.tell(signal)).collect()
        }

        fn pass(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
        }

        fn admit(&mut self) -> Admission {
            self.breaker.admit(|| self.now)
        }
    }

    #[test]
    fn what_opens_it_and_what_does_not() {
        let table: &[(&str, Vec<Signal>, bool)] = &[
            ("two hard", vec![Hard, Hard], false),
            ("three hard", vec![Hard, Hard, Hard], true),
            ("hard, but not in a row", vec![Hard, Hard, Success, Hard, Hard], false),
            ("one hard and a probe that agrees", vec![Hard, ProbeFailed], true),
            ("one hard and a probe that does not", vec![Hard, ProbeAnswered, Hard, ProbeAnswered, Hard], false),
            ("four soft", vec![Soft; 4], false),
            ("five soft", vec![Soft; 5], true),
            ("soft, but not in a row", [vec![Soft; 4], vec![Success], vec![Soft; 4]].concat(), false),
            ("a hundred silences", vec![Silence; 100], false),
            ("a probe that is silent", vec![ProbeSilent; 3], false),
            ("four silences, and then a silent probe", [vec![Silence; 4], vec![ProbeSilent]].concat(), false),
            ("five silences, and then a silent probe", [vec![Silence; 5], vec![ProbeSilent]].concat(), true),
            (
                "five silences, but not in a row",
                [vec![Silence; 4], vec![Success, Silence, ProbeSilent]].concat(),
                false,
            ),
            (
                "five silences, and a probe is answered",
                [vec![Silence; 5], vec![ProbeAnswered, ProbeSilent]].concat(),
                false,
            ),
            ("a server that leaves", vec![Leaving], true),
            ("one failure in ten", [vec![Success; 9], vec![Soft]].concat().repeat(50), false),
            ("one failure in five", [vec![Success; 4], vec![Soft]].concat().repeat(20), false),
            ("three failures in ten", [vec![Soft; 3], vec![Success; 7]].concat().repeat(3), true),
        ];
        for (what, signals, opens) in table {
            let mut bench = Bench::new();
            let opened = bench.tell_all(signals).contains(&Opened);
            assert_eq!(opened, *opens, "{what}");
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_half_minute() {
        let mut bench = Bench::new();
        bench.tell_all(&[Soft, Soft, Soft, Success].repeat(4));
        bench.pass(36_000);
        assert!(!bench.tell_all(&[vec![Success; 20], vec![Soft; 4]].concat()).contains(&Opened), "old failures count");
    }

    #[test]
    fn a_first_hard_failure_asks_for_a_probe() {
        let mut bench = Bench::new();
        assert_eq!(bench.tell_all(&[Hard, Hard, Hard, Hard]), [Suspected, Suspected, Opened, Nothing]);
    }

    #[test]
    fn the_way_back_goes_through_probes_and_three_stages() {
        let mut bench = Bench::new();
        bench.tell(Leaving);
        assert_eq!(bench.breaker.until_probe(bench.now), Some(Duration::from_secs(1)));
        bench.pass(1_000);
        bench.tell(ProbeAnswered);
        assert!(bench.breaker.is_open(), "one probe is not enough");
        assert_eq!(bench.breaker.until_probe(bench.now), Some(Duration::from_millis(500)));
        bench.tell(ProbeAnswered);
        assert!(!bench.breaker.is_open());
        for allowed in STAGES {
            for _ in 0..allowed {
                assert_eq!(bench.admit(), Admission::Yes);
            }
            assert_eq!(bench.admit(), Admission::Soon, "{allowed} at a time");
            (0..allowed).for_each(|_| bench.breaker.release());
            bench.tell_all(&[Success; 3]);
        }
        for _ in 0..100 {
            assert_eq!(bench.admit(), Admission::Yes, "closed");
        }
        assert!(!bench.breaker.is_trusted(), "within the hold-down");
        assert!(!bench.breaker.trust(bench.now));
        bench.pass(10_000);
        assert!(bench.breaker.trust(bench.now));
        assert!(bench.breaker.is_trusted() && bench.breaker.until_probe(bench.now).is_none());
    }

    #[test]
    fn a_server_without_traffic_comes_back_by_probes() {
        let mut bench = Bench::new();
        bench.tell_all(&[Hard, ProbeFailed]);
        let mut probes = 0;
        while !bench.breaker.is_trusted() {
            let wait = bench.breaker.until_probe(bench.now).expect("it is probed until it is trusted");
            bench.now += wait;
            bench.tell(ProbeAnswered);
            bench.breaker.trust(bench.now);
            probes += 1;
            assert!(probes < 100);
        }
        assert!(probes >= 2 + 9, "{probes}");
    }

    #[test]
    fn every_failure_on_the_way_back_doubles_the_period() {
        let mut bench = Bench::new();
        bench.tell(Leaving);
        let mut periods = Vec::new();
        for failure in [ProbeFailed, ProbeSilent, Hard, Soft, Silence, ProbeFailed] {
            let wait = bench.breaker.until_probe(bench.now).expect("open");
            periods.push(wait.as_secs());
            bench.now += wait;
            if matches!(failure, Hard | Soft | Silence) {
                bench.tell_all(&[ProbeAnswered, ProbeAnswered]);
                assert!(!bench.breaker.is_open());
            }
            bench.tell(failure);
            assert!(bench.breaker.is_open(), "{failure:?}");
        }
        assert_eq!(periods, [1, 2, 4, 8, 16, 30]);
    }

    #[test]
    fn tries_while_it_is_open_do_not_put_off_the_probes() {
        let mut bench = Bench::new();
        bench.tell(Leaving);
        bench.pass(600);
        bench.tell_all(&[Hard, Soft, Silence, Leaving]);
        assert_eq!(bench.breaker.until_probe(bench.now), Some(Duration::from_millis(400)));
        bench.tell_all(&[ProbeAnswered, Hard, ProbeAnswered]);
        assert!(bench.breaker.is_open(), "probes count in a row");
        bench.tell_all(&[Soft, Success]);
        assert!(!bench.breaker.is_open(), "a request that got through is enough");
    }

    #[test]
    fn jitter_is_equal() {
        for (chance, expected) in [(0.0, 500), (0.5, 750), (1.0, 1_000)] {
            let (mut breaker, now) = (Breaker::new(HOLD_DOWN), Instant::now());
            breaker.heed(Leaving, now, || chance);
            assert_eq!(breaker.until_probe(now), Some(Duration::from_millis(expected)));
        }
    }

    #[test]
    fn an_open_one_admits_ten_tries_a_second() {
        let mut bench = Bench::new();
        bench.tell(Leaving);
        let mut admitted = 0;
        for _ in 0..1_000 {
            admitted += u32::from(bench.admit() == Admission::Yes);
            bench.pass(1);
        }
        assert_eq!(admitted, 10);
        bench.admit();
        bench.pass(40);
        assert_eq!(bench.admit(), Admission::NotBefore(Duration::from_millis(60)));
    }

    #[test]
    fn what_was_admitted_before_it_opened_does_not_count_later() {
        let mut bench = Bench::new();
        bench.tell_all(&[Leaving, ProbeAnswered, ProbeAnswered]);
        assert_eq!((bench.admit(), bench.admit()), (Admission::Yes, Admission::Soon));
        bench.tell_all(&[Soft, ProbeAnswered, ProbeAnswered]);
        assert_eq!(bench.admit(), Admission::Yes);
        bench.breaker.release();
        bench.breaker.release();
        assert_eq!((bench.admit(), bench.admit()), (Admission::Yes, Admission::Soon));
    }
}
