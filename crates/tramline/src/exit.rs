//! How the program ends: the documented exit codes, and the failures that carry them.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What the exit code says. Scripts match on these numbers: they never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    Failure = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    Unavailable = 5,
    RunFailed = 6,
    Unauthorized = 7,
    Unfinished = 8,
}

impl Exit {
    /// All of them, in order.
    pub const ALL: [Exit; 9] = [
        Exit::Ok,
        Exit::Failure,
        Exit::Usage,
        Exit::NotFound,
        Exit::Refused,
        Exit::Unavailable,
        Exit::RunFailed,
        Exit::Unauthorized,
        Exit::Unfinished,
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// A name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Exit::Ok => "ok",
            Exit::Failure => "failure",
            Exit::Usage => "usage",
            Exit::NotFound => "not_found",
            Exit::Refused => "refused",
            Exit::Unavailable => "unavailable",
            Exit::RunFailed => "run_failed",
            Exit::Unauthorized => "unauthorized",
            Exit::Unfinished => "unfinished",
        }
    }

    /// What it means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "done",
            Exit::Failure => "something failed that the other codes do not name",
            Exit::Usage => "wrong arguments or a wrong setting; nothing was done",
            Exit::NotFound => "no such project, run, workflow, schedule or function, or none that matches",
            Exit::Refused => {
                "refused: missing fields, a bad definition, a conflict, a project or port in use"
            }
            Exit::Unavailable => "nothing answers there, or it is overloaded or stopping; try again",
            Exit::RunFailed => "the run waited for did not complete, or the function answered with an error",
            Exit::Unauthorized => "the key is missing, wrong, or not allowed to do this",
            Exit::Unfinished => "the time to wait is over and the run goes on",
        }
    }
}

/// The table that `tramline help exit-codes` prints.
pub fn exit_code_table() -> String {
    Exit::ALL.iter().fold(String::new(), |mut text, exit| {
        // writing to a String cannot fail
        let _ = writeln!(text, "  {}  {:<13} {}", exit.code(), exit.name(), exit.meaning());
        text
    })
}

/// Why a command ended without doing what was asked.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// One sentence.
    pub message: String,
    /// Further lines: all missing fields, all places.
    pub details: Vec<String>,
    /// What the server said, for `--json`.
    pub answer: Option<Value>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            details: Vec::new(),
            answer: None,
            hint: None,
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `failed to <error>` with its causes.
    pub fn of(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(exit, format!("failed to {}", chain(error)))
    }

    /// The same for programs.
    pub fn to_json(&self) -> Value {
        let mut error = json!({
            "code": self.exit.name(), "exit_code": self.exit.code(), "message": self.message,
        });
        if !self.details.is_empty() {
            error["details"] = json!(self.details);
        }
        if let Some(hint) = &self.hint {
            error["hint"] = json!(hint);
        }
        if let Some(answer) = &self.answer {
            error["answer"] = answer.clone();
        }
        json!({ "error": error })
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = format!("error: {}", self.message);
        for line in &self.details {
            let _ = write!(text, "\n  - {line}");
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n{hint}");
        }
        text
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failure, format!("failed to {}", chain(error.as_ref())))
    }
}

/// The result of a command.
pub type Done<T = ()> = Result<T, Failure>;

/// Gives an error of a library the exit code that fits.
pub trait OrExit<T> {
    /// `failed to <error>`.
    fn or_exit(self, exit: Exit) -> Done<T>;
}

impl<T, E: std::error::Error + 'static> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Done<T> {
        self.map_err(|error| Failure::of(exit, &error))
    }
}

/// An error and its causes in one line; a cause that the text before already tells is not repeated.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            let _ = write!(text, ": {words}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_numbered_from_zero_without_gaps() {
        for (index, exit) in Exit::ALL.iter().enumerate() {
            assert_eq!(usize::from(exit.code()), index, "{}", exit.name());
        }
    }

    #[test]
    fn causes_are_printed_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("read {0}: {1}")]
        struct Outer(&'static str, #[source] std::io::Error);
        let error = Outer("x", std::io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "read x: disk on fire");
    }
}
