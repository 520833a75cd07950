//! Beats at the clock's precision. The runtime's own timers end at whole milliseconds: requests that were to be spread evenly would
//! leave together, a thousand times a second, and wait for each other.

use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Beats from `due` on, in even steps.
pub struct Metronome {
    timer: AsyncFd<Timer>,
    due: Instant,
    every: Duration,
}

struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Metronome {
    /// In the runtime of the caller.
    pub fn new(first: Instant, every: Duration) -> Result<Self> {
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        Ok(Self {
            timer: watch(Timer(timer))?,
            due: first,
            every,
        })
    }

    /// Waits for the next beat; at once when it was missed.
    pub async fn beat(&mut self) -> Result<()> {
        let wait = self.due.saturating_duration_since(Instant::now());
        self.due += self.every;
        if wait.is_zero() {
            return Ok(());
        }
        let once = Expiration::OneShot(TimeSpec::from_duration(wait));
        self.timer.get_ref().0.set(once, TimerSetTimeFlags::empty())?;
        let ended = self
            .timer
            .async_io(Interest::READABLE, |timer| timer.0.wait().map_err(Into::into));
        Ok(ended.await?)
    }
}

#[expect(
    deprecated,
    reason = "what follows it is unsafe; a timer keeps its own descriptor until it is dropped"
)]
fn watch(timer: Timer) -> std::io::Result<AsyncFd<Timer>> {
    AsyncFd::with_interest(timer, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_beat_is_early_and_missed_ones_come_at_once() {
        let first = Instant::now() + Duration::from_micros(300);
        let every = Duration::from_micros(300);
        let mut metronome = Metronome::new(first, every).unwrap();
        for number in 0..10 {
            metronome.beat().await.unwrap();
            assert!(Instant::now() >= first + every * number, "beat {number}");
        }
        let past = Instant::now() - Duration::from_secs(60);
        let mut metronome = Metronome::new(past, Duration::from_secs(1)).unwrap();
        for _ in 0..60 {
            metronome.beat().await.unwrap();
        }
        assert!(metronome.due <= Instant::now());
    }
}
