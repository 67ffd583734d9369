//! What was sent and what was acknowledged, kept outside the server.
//!
//! A book knows one swamp: every state each key was sent into, in order, and which of them was
//! acknowledged last. A copy that was begun after a mark must show, key by key, the state at the mark
//! or one that was sent later. The same holds for a server after a crash.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Client, Contents};
use crate::support::{Answer, Target};

const KEYS: usize = 8;
/// A swamp whose disk failed tries a fresh file every 5 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// Numbers that look random and are the same in every run.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).rotate_right(24) % bound
    }
}

/// The states one key was sent into. The first is absence.
#[derive(Debug, Clone)]
struct History {
    states: Vec<Option<u64>>,
    acknowledged: usize,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Acknowledged,
    /// The server said no, and that nothing was done.
    Refused(u16),
    /// No answer, or one that does not know.
    Unknown,
}

impl Fate {
    fn of(answer: &std::io::Result<Answer>) -> Fate {
        match answer {
            // A copy leaves a mark for a key that may be on its owner, and says so.
            Ok(answer) if answer.status == 404 && answer.header("hydra-applied") == Some("yes") => Fate::Acknowledged,
            Ok(answer) if answer.status < 300 => Fate::Acknowledged,
            Ok(answer) if answer.header("hydra-applied") == Some("no") => Fate::Refused(answer.status),
            Ok(answer) if answer.status < 500 => panic!("a write nobody can refuse: {answer:?}"),
            _ => Fate::Unknown,
        }
    }
}

/// The ledger of one swamp.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) swamp: String,
    keys: Vec<History>,
    /// Increments sent, those acknowledged, and the idempotency key of one that was not answered.
    sums: (u64, u64, Option<String>),
    sent: u64,
    dice: Dice,
    padding: String,
}

/// The acknowledged state of a book at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    acknowledged: Vec<usize>,
    sum: u64,
}

impl Book {
    /// `padding` bytes make each value heavier.
    pub(crate) fn new(swamp: String, seed: u64, padding: usize) -> Book {
        let history = History { states: vec![None], acknowledged: 0 };
        Book {
            swamp,
            keys: vec![history; KEYS],
            sums: (0, 0, None),
            sent: 0,
            dice: Dice::new(seed),
            padding: "x".repeat(padding),
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { acknowledged: self.keys.iter().map(|history| history.acknowledged).collect(), sum: self.sums.1 }
    }

    /// One write: a put, a delete, an increment, or a batch that gives the first two keys the same value.
    pub(crate) fn write(&mut self, client: &mut Client) -> Fate {
        self.sent += 1;
        let key = 2 + self.dice.below(KEYS as u64 - 2) as usize;
        match self.dice.below(8) {
            0 => self.increment(client),
            1 => self.twins(client),
            2 if self.keys[key].states.last() != Some(&None) => {
                let path = format!("/v1/kv/{}/k{key}", self.swamp);
                self.change(&[key], None, || client.send("DELETE", &path, &[], ""))
            }
            _ => {
                let (path, body) = (format!("/v1/kv/{}/k{key}", self.swamp), self.value(self.sent));
                self.change(&[key], Some(self.sent), || client.send("PUT", &path, &[], &body))
            }
        }
    }

    /// A put that leaves no doubt that the swamp was written to.
    pub(crate) fn touch(&mut self, client: &mut Client) -> Fate {
        self.sent += 1;
        let (path, body) = (format!("/v1/kv/{}/k2", self.swamp), self.value(self.sent));
        self.change(&[2], Some(self.sent), || client.send("PUT", &path, &[], &body))
    }

    fn value(&self, number: u64) -> String {
        format!("[{number},\"{}\"]", self.padding)
    }

    fn change(&mut self, keys: &[usize], state: Option<u64>, send: impl FnOnce() -> std::io::Result<Answer>) -> Fate {
        for &key in keys {
            self.keys[key].states.push(state);
        }
        let answer = send();
        let fate = Fate::of(&answer);
        for &key in keys {
            let history = &mut self.keys[key];
            match fate {
                Fate::Acknowledged => history.acknowledged = history.states.len() - 1,
                Fate::Refused(_) => drop(history.states.pop()),
                Fate::Unknown => {}
            }
        }
        fate
    }

    fn twins(&mut self, client: &mut Client) -> Fate {
        let value = self.value(self.sent);
        let put = |key| format!("{{\"op\":\"put\",\"key\":\"k{key}\",\"value\":{value}}}");
        let body = format!("{{\"atomic\":true,\"ops\":[{},{}]}}", put(0), put(1));
        let path = format!("/v1/swamps/{}/batch", self.swamp);
        self.change(&[0, 1], Some(self.sent), || client.send("POST", &path, &[], &body))
    }

    fn increment(&mut self, client: &mut Client) -> Fate {
        let (again, key) = match self.sums.2.take() {
            Some(key) => (true, key),
            None => (false, format!("{}-{}", self.swamp.replace('/', "-"), self.sent)),
        };
        self.sums.0 += u64::from(!again);
        let path = format!("/v1/kv/{}/sum?incr=1", self.swamp);
        let fate = Fate::of(&client.send("POST", &path, &[("Idempotency-Key", &key)], ""));
        match fate {
            Fate::Acknowledged => self.sums.1 += 1,
            Fate::Refused(_) | Fate::Unknown => self.sums.2 = Some(key),
        }
        fate
    }

    /// Sends an increment again that was not answered, so that the sum is known exactly.
    pub(crate) fn settle(&mut self, client: &mut Client) {
        let begun = Instant::now();
        while self.sums.2.is_some() && self.increment(client) != Fate::Acknowledged {
            assert!(begun.elapsed() < PATIENCE, "{}: the increment cannot be sent again", self.swamp);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether a copy begun after the mark shows what it must; answers what it lacks.
    pub(crate) fn check(&self, mark: &Mark, found: &Contents) -> Vec<String> {
        let mut wrong: Vec<String> = (0..KEYS).filter_map(|key| self.check_key(key, mark, found)).collect();
        let sum = found.value("sum").map_or(0, |value| value.as_u64().expect("a sum"));
        if !(mark.sum..=self.sums.0).contains(&sum) {
            wrong.push(format!("{}: the sum is {sum}, not within {}..={}", self.swamp, mark.sum, self.sums.0));
        }
        if number(found, "k0") != number(found, "k1") {
            wrong.push(format!("{}: half of a batch: {:?} and {:?}", self.swamp, found.value("k0"), found.value("k1")));
        }
        if found.copy.as_deref() == Some("degraded") {
            wrong.push(format!("{}: the copy is degraded", self.swamp));
        }
        wrong
    }

    fn check_key(&self, key: usize, mark: &Mark, found: &Contents) -> Option<String> {
        let shown = number(found, &format!("k{key}"));
        let possible = &self.keys[key].states[mark.acknowledged[key]..];
        let first = possible.first();
        (!possible.contains(&shown)).then(|| {
            let more = possible.len() - 1;
            format!("{}/k{key}: shows {shown:?}; acknowledged was {first:?}, {more} sent later", self.swamp)
        })
    }

    /// Compares with the server now, and exactly: what is shown becomes the acknowledged state.
    pub(crate) fn check_exactly(&mut self, client: &mut Client) -> Vec<String> {
        self.settle(client);
        let found = Contents::read(client, &self.swamp);
        let wrong = self.check(&self.mark(), &found);
        for (key, history) in self.keys.iter_mut().enumerate() {
            *history = History { states: vec![None, number(&found, &format!("k{key}"))], acknowledged: 1 };
        }
        wrong
    }
}

/// The number in a value a book wrote.
fn number(found: &Contents, key: &str) -> Option<u64> {
    found.value(key).map(|value| value[0].as_u64().unwrap_or_else(|| panic!("not a value of a book: {value}")))
}

/// Many books that many writers fill.
#[derive(Debug)]
pub(crate) struct Library {
    books: Vec<Mutex<Book>>,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// A pass over the library's books, by the writers of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) writers: usize,
    /// Between two writes of one writer.
    pub(crate) rest: Duration,
}

impl Library {
    pub(crate) fn new(swamps: impl IntoIterator<Item = String>, seed: u64, padding: usize) -> Library {
        let book = |(index, swamp)| Mutex::new(Book::new(swamp, seed + index as u64, padding));
        let books = swamps.into_iter().enumerate().map(book).collect();
        Library { books, acknowledged: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    pub(crate) fn each(&self, mut act: impl FnMut(&mut Book)) {
        self.books.iter().for_each(|book| act(&mut book.lock().expect("no writer panicked")));
    }

    pub(crate) fn len(&self) -> usize {
        self.books.len()
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn mark(&self) -> Vec<Mark> {
        let mut marks = Vec::with_capacity(self.len());
        self.each(|book| marks.push(book.mark()));
        marks
    }

    /// What a server over a copy lacks of what was acknowledged at the mark.
    pub(crate) fn check(&self, marks: &[Mark], target: Target) -> Vec<String> {
        let mut client = Client::new(target);
        let mut wrong = Vec::new();
        for (book, mark) in self.books.iter().zip(marks) {
            let swamp = book.lock().expect("no writer panicked").swamp.clone();
            let found = Contents::read(&mut client, &swamp);
            wrong.extend(book.lock().expect("no writer panicked").check(mark, &found));
        }
        wrong
    }

    /// What a server lacks of everything acknowledged; to be called while nobody writes.
    pub(crate) fn check_exactly(&self, target: Target) -> Vec<String> {
        let mut client = client(target);
        let mut wrong = Vec::new();
        self.each(|book| wrong.extend(book.check_exactly(&mut client)));
        wrong
    }

    /// Writes to every book once, for certain.
    pub(crate) fn touch_all(&self, target: Target) {
        let mut client = Client::new(target);
        self.each(|book| assert_eq!(book.touch(&mut client), Fate::Acknowledged, "{}", book.swamp));
    }

    /// Runs writers until `end` returns. A writer that gets no answer stops; one that is refused goes on.
    pub(crate) fn under_load<T>(&self, target: Target, pace: Pace, end: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..pace.writers {
                let stop = &stop;
                scope.spawn(move || self.fill(target, writer, pace, stop));
            }
            let _stop = StopOnDrop(&stop);
            end()
        })
    }

    fn fill(&self, target: Target, writer: usize, pace: Pace, stop: &AtomicBool) {
        let mut client = client(target);
        for book in self.books.iter().skip(writer).step_by(pace.writers).cycle() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let fate = book.lock().expect("no writer panicked").write(&mut client);
            match fate {
                Fate::Acknowledged => drop(self.acknowledged.fetch_add(1, Ordering::Relaxed)),
                Fate::Refused(_) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(10));
                }
                Fate::Unknown => return,
            }
            std::thread::sleep(pace.rest);
        }
    }
}

/// A client that says that somebody else did not answer, so that copies take its writes, too.
fn client(target: Target) -> Client {
    Client::new(target).with_header("Hydra-Fallback-For", "another")
}

/// Sets the flag, also when what it waits for panics: the scope would wait for ever.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Names of swamps.
pub(crate) fn names(sanctuary: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |index| format!("{sanctuary}/ledger/w{index}"))
}

/// Makes every write to these swamps wait for the disk.
pub(crate) fn synced(target: Target, pattern: &str) {
    let answer = target.put(&format!("/v1/policies/{pattern}"), r#"{"writeInterval":"0s"}"#);
    assert!(answer.status < 300, "{answer:?}");
}

/// A number from the environment, for the long forms of tests.
pub(crate) fn wanted(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")),
        Err(_) => default,
    }
}

/// Fails with the first few of what is wrong.
pub(crate) fn expect_nothing(wrong: &[String], when: &str) {
    assert!(wrong.is_empty(), "{when}: {} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(8)]);
}
