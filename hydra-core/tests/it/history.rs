//! Histories of one key: whether some order of the calls explains every answer, so that nothing comes before what
//! had ended when it began. A call without an answer may have been done or not.

use std::collections::HashSet;

/// What stands under a key: nothing, or a number that is written once only.
pub type Register = Option<i64>;

/// What was asked for and what was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    Get(Register),
    Put(i64),
    /// A put where nothing stands; whether it was done.
    Create(i64, bool),
    /// A put in place of what was read before; whether it was done.
    Replace(i64, i64, bool),
    /// Whether there was something.
    Delete(bool),
    /// The sum.
    Add(i64, i64),
    /// A write that was never answered: it was done by its end, or never will be.
    Unanswered(Write),
}

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Write {
    Put(i64),
    Create(i64),
    Replace(i64, i64),
    Delete,
    Add(i64),
}

impl Write {
    /// What stands there once it is done.
    fn on(self, before: Register) -> Register {
        match self {
            Write::Put(value) => Some(value),
            Write::Create(value) => before.or(Some(value)),
            Write::Replace(from, to) => {
                if before == Some(from) {
                    Some(to)
                } else {
                    before
                }
            }
            Write::Delete => None,
            Write::Add(by) => Some(before.unwrap_or(0) + by),
        }
    }
}

impl Call {
    /// What stands there afterwards, if the answer fits what stands there before.
    fn apply(&self, before: Register) -> Option<Register> {
        match *self {
            Call::Get(seen) => (seen == before).then_some(before),
            Call::Put(value) => Some(Some(value)),
            Call::Create(value, done) => (done == before.is_none()).then_some(if done { Some(value) } else { before }),
            Call::Replace(from, to, done) => {
                (done == (before == Some(from))).then_some(if done { Some(to) } else { before })
            }
            Call::Delete(existed) => (existed == before.is_some()).then_some(None),
            Call::Add(by, sum) => (before.unwrap_or(0) + by == sum).then_some(Some(sum)),
            Call::Unanswered(write) => Some(write.on(before)),
        }
    }

    /// What may stand there afterwards.
    fn outcomes(&self, before: Register) -> impl Iterator<Item = Register> {
        let never = matches!(self, Call::Unanswered(_)).then_some(before);
        self.apply(before).into_iter().chain(never)
    }
}

/// A call and the time from before it was made until after it was answered.
#[derive(Debug, Clone)]
pub struct Event {
    pub call: Call,
    pub from: u64,
    pub to: u64,
}

/// Whether some order explains the history of one key.
fn is_linearizable(history: &[Event]) -> bool {
    stuck_at(history).is_none()
}

/// The first event that no order explains, with those around it.
pub fn stuck_at(history: &[Event]) -> Option<Vec<Event>> {
    let mut history = history.to_vec();
    history.sort_by_key(|event| event.from);
    let mut furthest = 0;
    let mut seen = HashSet::new();
    // What is done, as the first event that is not and the ones behind it that are.
    let mut pending: Vec<(usize, Vec<usize>, Register)> = vec![(0, Vec::new(), None)];
    while let Some((first, done, register)) = pending.pop() {
        furthest = furthest.max(first);
        if first == history.len() {
            return None;
        }
        let left = || (first..history.len()).filter(|at| !done.contains(at));
        // Nobody who began after another had ended comes before that one.
        let ends = left().take_while(|&at| history[at].from <= history[first].to).map(|at| history[at].to).min();
        for at in left().take_while(|&at| Some(history[at].from) <= ends) {
            let mut done = done.clone();
            done.push(at);
            done.sort_unstable();
            let mut first = first;
            while done.first() == Some(&first) {
                done.remove(0);
                first += 1;
            }
            for after in history[at].call.outcomes(register) {
                if seen.insert((first, done.clone(), after)) {
                    pending.push((first, done.clone(), after));
                }
            }
        }
    }
    Some(history[furthest.saturating_sub(8)..history.len().min(furthest + 8)].to_vec())
}

fn event(call: Call, from: u64, to: u64) -> Event {
    Event { call, from, to }
}

#[test]
fn a_stale_read_a_lost_update_and_a_doubled_increment_are_noticed() {
    let stale = [event(Call::Put(1), 0, 1), event(Call::Put(2), 2, 3), event(Call::Get(Some(1)), 4, 5)];
    assert!(!is_linearizable(&stale));
    let overlapping = [event(Call::Put(1), 0, 1), event(Call::Put(2), 2, 5), event(Call::Get(Some(1)), 4, 6)];
    assert!(is_linearizable(&overlapping), "the put may take effect after the read");
    let back = [event(Call::Put(2), 0, 9), event(Call::Get(Some(2)), 1, 2), event(Call::Get(None), 3, 4)];
    assert!(!is_linearizable(&back), "what was seen once stays");
    let both =
        [event(Call::Put(1), 0, 1), event(Call::Replace(1, 2, true), 2, 5), event(Call::Replace(1, 3, true), 3, 6)];
    assert!(!is_linearizable(&both));
    let twice = [event(Call::Add(1, 1), 0, 3), event(Call::Add(1, 1), 1, 4)];
    assert!(!is_linearizable(&twice));
    assert!(is_linearizable(&[event(Call::Add(1, 2), 0, 3), event(Call::Add(1, 1), 1, 4)]));
    assert!(!is_linearizable(&[event(Call::Put(1), 0, 1), event(Call::Delete(false), 2, 3)]));
    // A write without an answer may show late, but not be taken back or show after its end.
    let lost = |read: Register, from| {
        [
            event(Call::Put(1), 0, 1),
            event(Call::Unanswered(Write::Put(2)), 2, 6),
            event(Call::Get(read), from, from + 1),
        ]
    };
    assert!(
        [lost(Some(1), 3), lost(Some(2), 3), lost(Some(1), 8), lost(Some(2), 8)].iter().all(|h| is_linearizable(h))
    );
    let seen = |after| [&lost(Some(2), 3)[..], &[event(Call::Get(Some(after)), 8, 9)]].concat();
    assert!(is_linearizable(&seen(2)) && !is_linearizable(&seen(1)));
    let late = [&lost(Some(1), 8)[..], &[event(Call::Get(Some(2)), 10, 11)]].concat();
    assert!(!is_linearizable(&late), "its server was dead by then");
    let added = |sum| [event(Call::Unanswered(Write::Add(5)), 0, 3), event(Call::Add(1, sum), 4, 5)];
    assert!(is_linearizable(&added(1)) && is_linearizable(&added(6)) && !is_linearizable(&added(11)));
}
