//! When a function that failed may start again.

use std::time::Duration;

use tokio::time::Instant;

/// A process that lived shorter than this before it crashed counts as crashing in a row.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Wait before the second start in a row; doubled up to the longest. The first restart does not wait.
const CRASH_DELAY: Duration = Duration::from_millis(100);
const CRASH_DELAY_MAX: Duration = Duration::from_secs(5);
/// After a module failed to load, the next attempt. Calls in between fail at once with the same message.
const BOOT_DELAY: Duration = Duration::from_secs(1);
const BOOT_DELAY_MAX: Duration = Duration::from_secs(30);

/// What is known of the last starts.
#[derive(Debug, Default)]
pub struct Gate {
    crashes: u32,
    boot_failures: u32,
    boot_error: Option<String>,
    not_before: Option<Instant>,
}

impl Gate {
    /// Waits until it may start; an error is the message of its last attempt, when that was just now.
    pub async fn pass(&self) -> Result<(), String> {
        self.fail_early()?;
        if let Some(at) = self.not_before {
            tokio::time::sleep_until(at).await;
        }
        Ok(())
    }

    /// The message of the last attempt to load the module, when that was just now.
    pub fn fail_early(&self) -> Result<(), String> {
        let is_over = self.not_before.is_none_or(|at| Instant::now() >= at);
        match self.boot_error.clone().filter(|_| !is_over) {
            Some(message) => Err(message),
            None => Ok(()),
        }
    }

    pub fn started(&mut self) {
        self.boot_failures = 0;
        self.boot_error = None;
        self.not_before = None;
    }

    /// Its module did not load.
    pub fn boot_failed(&mut self, message: &str) {
        let delay = BOOT_DELAY
            .saturating_mul(1 << self.boot_failures.min(10))
            .min(BOOT_DELAY_MAX);
        self.boot_failures += 1;
        self.boot_error = Some(message.to_owned());
        self.not_before = Some(Instant::now() + delay);
    }

    /// Its process ended by itself after this time.
    pub fn crashed(&mut self, age: Duration) {
        self.crashes = if age < STABLE_AFTER { self.crashes + 1 } else { 1 };
        if self.crashes > 1 {
            let delay = CRASH_DELAY
                .saturating_mul(1 << (self.crashes - 2).min(10))
                .min(CRASH_DELAY_MAX);
            self.not_before = Some(Instant::now() + delay);
        }
    }
}
