//! What a person sees while they wait: one moving line on a terminal, plain lines elsewhere.

use std::io::{BufRead as _, IsTerminal as _, stdin};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::exit::{Done, Exit, Failure};
use crate::output;

/// Often enough to look alive.
const TICK: Duration = Duration::from_millis(100);

/// Clones share the line.
#[derive(Clone)]
pub struct Progress {
    /// None where standard error is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            let bar = ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar }
    }

    /// What is being done now.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(line.to_owned()),
            None => output::note(line),
        }
    }

    /// A line that stays.
    pub fn keep(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(line)),
            None => output::note(line),
        }
    }

    /// The wait is over.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // the last one of a start that failed: its error stands on a line of its own
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            bar.finish_and_clear();
        }
    }
}

/// Asks on a terminal before data is deleted; refuses elsewhere.
pub fn confirm(question: &str) -> Done {
    ask(question, "deleting data", "nothing was deleted")
}

/// The same before many runs are changed.
pub fn confirm_act(question: &str) -> Done {
    ask(question, "changing many runs", "nothing was changed")
}

fn ask(question: &str, before: &str, otherwise: &str) -> Done {
    if !stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            format!("failed to ask before {before}: this is no terminal"),
        )
        .hint("Give --yes when you are sure."));
    }
    output::note(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = stdin().lock().read_line(&mut answer);
    match read {
        Ok(_) if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") => Ok(()),
        _ => Err(Failure::new(Exit::Refused, otherwise)),
    }
}
