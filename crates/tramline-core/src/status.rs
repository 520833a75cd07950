//! The states of runs and steps, and the one table that says which run state may follow which.

use std::fmt;
use std::str::FromStr;

macro_rules! statuses {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every status, in the order of the vocabulary.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word used in SQL, HTTP, logs and pages.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

statuses! {
    /// Where a run stands.
    RunStatus {
        /// Waits for its start time.
        Scheduled = "scheduled",
        /// Ready, nobody drives it yet.
        Queued = "queued",
        /// A worker or owner took it, the first step has not begun.
        Claimed = "claimed",
        /// At least one step has begun.
        Running = "running",
        /// Parked on a time or an event.
        Waiting = "waiting",
        /// Stopped by a person until resumed.
        Paused = "paused",
        /// Undoing finished steps after a failure or a cancel.
        Compensating = "compensating",
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
        /// Ended without doing anything, on purpose.
        Skipped = "skipped",
    }
}

statuses! {
    /// Where a step stands.
    StepStatus {
        Pending = "pending",
        Running = "running",
        /// Parked on a time, an event or a retry delay.
        Waiting = "waiting",
        Completed = "completed",
        Failed = "failed",
        /// Its `when` was false, or what it needs did not happen.
        Skipped = "skipped",
        Cancelled = "cancelled",
        /// It had completed and was undone.
        Compensated = "compensated",
    }
}

impl RunStatus {
    /// Whether a run in this state has ended (for its generation).
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Cancelled | Self::Skipped
        )
    }
}

impl StepStatus {
    /// Whether the step will not run again in this generation.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Failed | Self::Skipped | Self::Cancelled | Self::Compensated
        )
    }
}

/// A word that names no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {kind} status `{word}`: use one of {expected}")]
pub struct UnknownStatus {
    pub kind: &'static str,
    pub word: String,
    /// The known words, separated by commas.
    pub expected: String,
}

fn unknown(kind: &'static str, word: &str, known: impl Iterator<Item = &'static str>) -> UnknownStatus {
    UnknownStatus {
        kind,
        word: word.to_owned(),
        expected: known.collect::<Vec<_>>().join(", "),
    }
}

impl FromStr for RunStatus {
    type Err = UnknownStatus;

    /// Reads a status; `success` is what existing workers write for `completed`.
    fn from_str(word: &str) -> Result<Self, UnknownStatus> {
        if word == "success" {
            return Ok(Self::Completed);
        }
        Self::ALL
            .iter()
            .copied()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| unknown("run", word, Self::ALL.iter().map(|s| s.as_str())))
    }
}

impl FromStr for StepStatus {
    type Err = UnknownStatus;

    fn from_str(word: &str) -> Result<Self, UnknownStatus> {
        Self::ALL
            .iter()
            .copied()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| unknown("step", word, Self::ALL.iter().map(|s| s.as_str())))
    }
}

/// A change of a run's state that the table does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("change a run from `{from}` to `{to}`: {}", reason(*from, *to))]
pub struct IllegalTransition {
    pub from: RunStatus,
    pub to: RunStatus,
}

fn reason(from: RunStatus, to: RunStatus) -> &'static str {
    if from.is_terminal() {
        "it has ended; a retry opens a new generation"
    } else if from == to {
        "it is already there"
    } else {
        "no such step in its life"
    }
}

/// Says whether a run may go from one state to another within one generation. A retry is not a transition: it opens
/// the next generation, which starts anew at `queued` or `scheduled`.
///
/// # Errors
/// [`IllegalTransition`] when the table has no such pair; staying in a state is no transition either.
pub fn run_transition(from: RunStatus, to: RunStatus) -> Result<(), IllegalTransition> {
    use RunStatus::*;
    let allowed: &[RunStatus] = match from {
        Scheduled => &[Queued, Claimed, Running, Paused, Failed, Cancelled, Skipped],
        // a run of pure steps can end before anybody saw it run
        Queued => &[
            Scheduled, Claimed, Running, Waiting, Paused, Completed, Failed, Cancelled, Skipped,
        ],
        // back to `queued` when its worker is lost or gives it up
        Claimed => &[
            Queued,
            Running,
            Waiting,
            Paused,
            Compensating,
            Completed,
            Failed,
            Cancelled,
            Skipped,
        ],
        Running => &[
            Queued,
            Waiting,
            Paused,
            Compensating,
            Completed,
            Failed,
            Cancelled,
            Skipped,
        ],
        Waiting => &[
            Queued,
            Running,
            Paused,
            Compensating,
            Completed,
            Failed,
            Cancelled,
            Skipped,
        ],
        Paused => &[
            Scheduled,
            Queued,
            Running,
            Waiting,
            Compensating,
            Failed,
            Cancelled,
        ],
        // what was undone can only have failed or been cancelled
        Compensating => &[Paused, Failed, Cancelled],
        Completed | Failed | Cancelled | Skipped => &[],
    };
    if allowed.contains(&to) {
        Ok(())
    } else {
        Err(IllegalTransition { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rows are `from`, columns are `to`, both in the order of `RunStatus::ALL`; `x` is allowed.
    const TABLE: [(&str, &str); 11] = [
        //               s q c r w p c c f c s
        ("scheduled", /**/ ". x x x . x . . x x x"),
        ("queued", /*   */ "x . x x x x . x x x x"),
        ("claimed", /*  */ ". x . x x x x x x x x"),
        ("running", /*  */ ". x . . x x x x x x x"),
        ("waiting", /*  */ ". x . x . x x x x x x"),
        ("paused", /*   */ "x x . x x . x . x x ."),
        ("compensating", /**/ ". . . . . x . . x x ."),
        ("completed", /**/ ". . . . . . . . . . ."),
        ("failed", /*   */ ". . . . . . . . . . ."),
        ("cancelled", /**/ ". . . . . . . . . . ."),
        ("skipped", /*  */ ". . . . . . . . . . ."),
    ];

    #[test]
    fn every_pair_of_run_states_is_as_the_table_says() {
        assert_eq!(TABLE.len(), RunStatus::ALL.len());
        for (row, (from_word, cells)) in TABLE.iter().enumerate() {
            let from = RunStatus::ALL[row];
            assert_eq!(from.as_str(), *from_word);
            let cells: Vec<&str> = cells.split(' ').collect();
            assert_eq!(cells.len(), RunStatus::ALL.len());
            for (&to, cell) in RunStatus::ALL.iter().zip(cells) {
                let expected = if cell == "x" {
                    Ok(())
                } else {
                    Err(IllegalTransition { from, to })
                };
                assert_eq!(run_transition(from, to), expected, "{from} -> {to}");
            }
        }
    }

    #[test]
    fn nothing_follows_an_end_and_every_open_state_can_be_cancelled() {
        for &from in RunStatus::ALL {
            assert_eq!(
                run_transition(from, RunStatus::Cancelled).is_ok(),
                !from.is_terminal(),
                "{from}"
            );
            assert_eq!(
                run_transition(from, RunStatus::Failed).is_ok(),
                !from.is_terminal(),
                "{from}"
            );
        }
    }

    #[test]
    fn refusals_say_why() {
        let ended = run_transition(RunStatus::Failed, RunStatus::Queued).unwrap_err();
        assert_eq!(
            ended.to_string(),
            "change a run from `failed` to `queued`: it has ended; a retry opens a new generation"
        );
        let same = run_transition(RunStatus::Running, RunStatus::Running).unwrap_err();
        assert_eq!(
            same.to_string(),
            "change a run from `running` to `running`: it is already there"
        );
    }

    #[test]
    fn words_are_read_back_and_serialise_alike() {
        for &status in RunStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        for &status in StepStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert_eq!("success".parse(), Ok(RunStatus::Completed));
        assert!("success".parse::<StepStatus>().is_err());
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_known_ones() {
        let error = "done".parse::<StepStatus>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "read step status `done`: use one of pending, running, waiting, completed, failed, skipped, cancelled, compensated"
        );
    }

    proptest! {
        #[test]
        fn every_walk_ends_at_most_once(picks in proptest::collection::vec(0usize..11, 0..40)) {
            let mut at = RunStatus::Queued;
            let mut ends = 0;
            for pick in picks {
                let to = RunStatus::ALL[pick];
                if run_transition(at, to).is_ok() {
                    at = to;
                    ends += usize::from(at.is_terminal());
                }
            }
            prop_assert!(ends <= 1);
        }
    }
}
