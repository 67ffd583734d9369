//! How a story is told: a title, numbered steps, and an end that says whether everything held.

use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use tokio::signal::unix::{SignalKind, signal};

/// The exit code when something that the story needs is missing on this machine.
const MISSING: u8 = 5;

/// Something that a story needs and this machine does not have.
#[derive(Debug)]
pub struct Missing(pub String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Counts the steps of a story.
#[derive(Debug, Default)]
pub struct Story(u32);

impl Story {
    /// Begins the next step.
    pub fn step(&mut self, text: impl fmt::Display) {
        self.0 += 1;
        println!("\n{}. {text}", self.0);
    }

    /// Says something that was found out, or what it means.
    pub fn say(&self, text: impl fmt::Display) {
        println!("   {text}");
    }
}

/// Tells a story to its end. Whatever happens, also Ctrl-C, its servers end and its directories go.
///
/// The exit code is 0 if everything held, 1 if not, and 5 if the story ended with [`Missing`].
pub fn tell<F: Future<Output = Result<()>>>(title: &str, story: impl FnOnce(Story) -> F) -> ExitCode {
    println!("{title}");
    let begun = Instant::now();
    let outcome = tokio::runtime::Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(until_interrupted(story(Story::default())));
        // Whatever still runs in the background belongs to servers that are gone.
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    });
    match outcome {
        Ok(()) => {
            println!("\nAll of this held. ({:.1} s)", begun.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nThis story could not be told to its end: {error:#}");
            if error.is::<Missing>() { ExitCode::from(MISSING) } else { ExitCode::FAILURE }
        }
    }
}

async fn until_interrupted(story: impl Future<Output = Result<()>>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        outcome = story => outcome,
        _ = terminate.recv() => Err(anyhow!("it was terminated")),
        _ = interrupt.recv() => Err(anyhow!("it was interrupted")),
    }
}

/// A number with spaces between its thousands.
#[must_use]
pub fn fmt_count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Fails unless there was enough of something for a story to prove anything.
///
/// # Errors
/// Says what there was too little of.
pub fn at_least(wanted: usize, found: usize, what: &str) -> Result<()> {
    ensure!(found >= wanted, "only {found} {what}; at least {wanted} are needed to prove anything");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0_u64, 999, 1_000, 1_234_567].map(fmt_count), ["0", "999", "1 000", "1 234 567"]);
    }
}
