//! How long to wait before the next attempt, and when to give up.

mod rules;

pub use rules::{CODE_MAX_BYTES, ErrorRule, RuleError, is_refusal};

/// How the delay grows from attempt to attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// The same delay each time.
    Fixed,
    /// `initial` times the number of failed attempts.
    Linear,
    /// `initial` doubled with each failed attempt.
    Exponential,
}

/// Default first delay: long enough for a restart of the callee to begin, short enough not to be noticed.
pub const INITIAL_MS: u64 = 1_000;
/// Default cap of the delay: a person who fixed the callee waits at most this long for the next attempt.
pub const MAX_MS: u64 = 5 * 60 * 1_000;
/// The most attempts a policy may ask for: beyond it a step is not being retried but polled.
pub const ATTEMPTS_MAX: u32 = 100;

/// When a failed step is tried again. Attempts count from one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RetryPolicy {
    /// All attempts, the first included; 1 means no retry, 0 is read as 1.
    pub max_attempts: u32,
    pub backoff: Backoff,
    /// Delay after the first failed attempt, in milliseconds.
    pub initial_ms: u64,
    /// Upper bound of every delay, in milliseconds.
    pub max_ms: u64,
    /// Spread delays over the upper half of their range, so that what failed together does not return together.
    pub jitter: bool,
    /// When not empty: only these failures are retried.
    #[serde(default)]
    pub on: Vec<ErrorRule>,
    /// Failures that are not retried, also when `on` names them.
    #[serde(default)]
    pub not_on: Vec<ErrorRule>,
}

impl Default for RetryPolicy {
    /// One attempt: nothing is retried behind the user's back.
    fn default() -> Self {
        Self::attempts(1)
    }
}

impl RetryPolicy {
    /// The default curve (exponential, one second to five minutes, with jitter) with this many attempts in all.
    pub const fn attempts(max_attempts: u32) -> Self {
        Self {
            max_attempts,
            backoff: Backoff::Exponential,
            initial_ms: INITIAL_MS,
            max_ms: MAX_MS,
            jitter: true,
            on: Vec::new(),
            not_on: Vec::new(),
        }
    }

    /// Whether anything is tried again at all.
    pub const fn retries(&self) -> bool {
        self.max_attempts > 1
    }

    /// Whether a failure with this code is worth another attempt. `retryable` is the callee's own word: its no stands over
    /// everything, its yes over what the HTTP status says. Where `on` names failures, only these are retried.
    pub fn wants(&self, code: &str, retryable: Option<bool>) -> bool {
        if retryable == Some(false) || self.not_on.iter().any(|rule| rule.matches(code)) {
            return false;
        }
        if !self.on.is_empty() {
            return self.on.iter().any(|rule| rule.matches(code));
        }
        retryable == Some(true) || !is_refusal(code)
    }

    /// [`RetryPolicy::delay_ms`], and not before the callee asked to be called again (`Retry-After`), as far as `max_ms` goes.
    pub fn delay_after_ms(
        &self,
        attempt_just_failed: u32,
        random: u64,
        retry_after_ms: Option<u64>,
    ) -> Option<u64> {
        let delay = self.delay_ms(attempt_just_failed, random)?;
        Some(delay.max(retry_after_ms.unwrap_or(0).min(self.max_ms)))
    }

    /// Milliseconds to wait after attempt number `attempt_just_failed` (from one), or `None` when it was the last.
    /// With jitter the delay is uniform between half the cap of this attempt and the cap, chosen by `random`.
    pub fn delay_ms(&self, attempt_just_failed: u32, random: u64) -> Option<u64> {
        if attempt_just_failed >= self.max_attempts.max(1) {
            return None;
        }
        let cap = self.cap_ms(attempt_just_failed);
        if !self.jitter {
            return Some(cap);
        }
        let floor = cap / 2;
        // widened, so that `cap - floor + 1` cannot overflow; the bias of a modulo over 2^64 is far below a millisecond
        let spread = u128::from(cap - floor) + 1;
        Some(floor + (u128::from(random) % spread) as u64)
    }

    /// The largest delay after this attempt: it never shrinks from attempt to attempt and never passes `max_ms`.
    pub fn cap_ms(&self, attempt_just_failed: u32) -> u64 {
        let failed = attempt_just_failed.max(1);
        let grown = match self.backoff {
            Backoff::Fixed => self.initial_ms,
            Backoff::Linear => self.initial_ms.saturating_mul(u64::from(failed)),
            Backoff::Exponential => {
                let factor = 1u64.checked_shl(failed - 1).unwrap_or(u64::MAX);
                self.initial_ms.saturating_mul(factor)
            }
        };
        grown.min(self.max_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(backoff: Backoff, jitter: bool) -> RetryPolicy {
        RetryPolicy {
            max_attempts: 10,
            backoff,
            initial_ms: 100,
            max_ms: 1_000,
            jitter,
            on: Vec::new(),
            not_on: Vec::new(),
        }
    }

    #[test]
    fn one_attempt_is_the_default_and_never_retries() {
        assert_eq!(RetryPolicy::default().max_attempts, 1);
        assert_eq!(RetryPolicy::default().delay_ms(1, 7), None);
        assert_eq!(RetryPolicy::attempts(0).delay_ms(1, 7), None);
    }

    #[test]
    fn curves_grow_as_named_up_to_the_cap() {
        let delays = |backoff| {
            (1..=6)
                .map(|n| policy(backoff, false).delay_ms(n, 0).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(delays(Backoff::Fixed), [100, 100, 100, 100, 100, 100]);
        assert_eq!(delays(Backoff::Linear), [100, 200, 300, 400, 500, 600]);
        assert_eq!(delays(Backoff::Exponential), [100, 200, 400, 800, 1_000, 1_000]);
    }

    #[test]
    fn the_last_attempt_has_no_delay_after_it() {
        assert!(policy(Backoff::Fixed, false).delay_ms(9, 0).is_some());
        assert_eq!(policy(Backoff::Fixed, false).delay_ms(10, 0), None);
        assert_eq!(policy(Backoff::Fixed, false).delay_ms(11, 0), None);
    }

    #[test]
    fn jitter_reaches_both_ends_of_its_range() {
        let policy = policy(Backoff::Fixed, true);
        assert_eq!(policy.delay_ms(1, 0), Some(50));
        assert_eq!(policy.delay_ms(1, 50), Some(100));
        assert_eq!(policy.delay_ms(1, 51), Some(50));
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_longest_delay() {
        let policy = policy(Backoff::Fixed, false);
        assert_eq!(policy.delay_after_ms(1, 0, None), Some(100));
        assert_eq!(policy.delay_after_ms(1, 0, Some(50)), Some(100));
        assert_eq!(policy.delay_after_ms(1, 0, Some(700)), Some(700));
        assert_eq!(policy.delay_after_ms(1, 0, Some(u64::MAX)), Some(1_000));
        assert_eq!(policy.delay_after_ms(10, 0, Some(700)), None);
    }

    fn any_policy() -> impl Strategy<Value = RetryPolicy> {
        let backoff = prop_oneof![
            Just(Backoff::Fixed),
            Just(Backoff::Linear),
            Just(Backoff::Exponential)
        ];
        (any::<u32>(), backoff, any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
            |(max_attempts, backoff, initial_ms, max_ms, jitter)| RetryPolicy {
                max_attempts,
                backoff,
                initial_ms,
                max_ms,
                jitter,
                on: Vec::new(),
                not_on: Vec::new(),
            },
        )
    }

    proptest! {
        #[test]
        fn delays_stay_between_half_the_cap_and_the_cap(policy in any_policy(), attempt: u32, random: u64) {
            if let Some(delay) = policy.delay_ms(attempt, random) {
                let cap = policy.cap_ms(attempt);
                prop_assert!(delay <= cap && cap <= policy.max_ms);
                prop_assert!(delay >= cap / 2);
                prop_assert!(policy.jitter || delay == cap);
            } else {
                prop_assert!(attempt >= policy.max_attempts.max(1));
            }
        }

        #[test]
        fn caps_never_shrink(policy in any_policy(), attempt in 0u32..u32::MAX) {
            prop_assert!(policy.cap_ms(attempt) <= policy.cap_ms(attempt + 1));
        }
    }
}
