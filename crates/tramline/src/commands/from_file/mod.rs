//! `tramline run start TARGET --from-file`: a run for every line, in batches, in bounded memory. Every run has a correlation id, so
//! a batch whose answer was lost is sent again, and a command that was broken off is repeated, without starting anything twice.

mod lines;

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal as _, stdin};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tramline_gateway::limits::{API_BODY_MAX, RUNS_PER_REQUEST_MAX};
use uuid::Uuid;

use self::lines::{Line, Lines, Refusal};
use crate::cli::Global;
use crate::client::Client;
use crate::exit::{Done, Exit, Failure};
use crate::output;

/// Bytes of one request: half of what the node takes, so that what is added to each line has room.
const BATCH_BYTES: usize = (API_BODY_MAX / 2) as usize;
/// How long a node that does not answer is asked again: a restart, a takeover.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_LAST: Duration = Duration::from_secs(5);

/// What became of the lines.
#[derive(Debug, Default)]
struct Count {
    started: u64,
    existing: u64,
    refused: u64,
}

/// Starts a run per line of `file` (`-`: standard input). `base` has the fields of every run.
pub async fn start_from_file(
    global: &Global,
    client: &Client,
    file: &str,
    base: Map<String, Value>,
    correlation_id: Option<String>,
) -> Done {
    let cannot = |error: std::io::Error| {
        let name = if file == "-" { "standard input" } else { file };
        Failure::new(Exit::Usage, format!("failed to read {name}: {error}"))
    };
    let (reader, length): (Box<dyn BufRead>, Option<u64>) = if file == "-" {
        (Box::new(BufReader::new(stdin())), None)
    } else {
        let open = File::open(file).map_err(cannot)?;
        let meta = open.metadata().map_err(cannot)?;
        if meta.is_dir() {
            return Err(Failure::new(
                Exit::Usage,
                format!("failed to read {file}: it is a folder"),
            ));
        }
        let length = meta.is_file().then_some(meta.len());
        (Box::new(BufReader::with_capacity(1 << 18, open)), length)
    };
    let prefix = correlation_id.unwrap_or_else(|| format!("file-{}", Uuid::now_v7()));
    let mut starter = Starter {
        client,
        json: global.json,
        bar: bar(length),
        prefix: prefix.clone(),
        count: Count::default(),
    };
    let done = starter.run(Lines::new(reader, base, prefix)).await;
    starter.bar.finish_and_clear();
    starter.tell();
    done?;
    match starter.count.refused {
        0 => Ok(()),
        n => Err(
            Failure::new(Exit::Refused, format!("{n} lines were refused; the others were started"))
                .hint(format!("Correct them and repeat the command with --correlation-id {}: what was started is not started again.", starter.prefix)),
        ),
    }
}

/// A moving line on a terminal, nothing elsewhere.
fn bar(length: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{wide_bar} {bytes}/{total_bytes}  {msg}  {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} ({elapsed})"),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

struct Starter<'a> {
    client: &'a Client,
    json: bool,
    bar: ProgressBar,
    prefix: String,
    count: Count,
}

impl Starter<'_> {
    async fn run<R: BufRead>(&mut self, mut lines: Lines<R>) -> Done {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(line) = lines.next()? {
            match line {
                Ok(line) => {
                    if bytes + line.bytes > BATCH_BYTES {
                        self.send(std::mem::take(&mut batch)).await?;
                        bytes = 0;
                    }
                    bytes += line.bytes;
                    batch.push(line);
                }
                Err(refusal) => self.refuse(&refusal),
            }
            if batch.len() == RUNS_PER_REQUEST_MAX {
                self.send(std::mem::take(&mut batch)).await?;
                bytes = 0;
                self.bar.set_position(lines.bytes);
            }
        }
        self.send(batch).await
    }

    /// Sends until every line of the batch is accepted or refused.
    async fn send(&mut self, batch: Vec<Line>) -> Done {
        let mut waiting = vec![batch];
        while let Some(batch) = waiting.pop() {
            if batch.is_empty() {
                continue;
            }
            match self.post(&batch).await {
                Ok(answers) => self.account(&batch, &answers)?,
                Err(failure) if failure.exit != Exit::Refused => return Err(self.broken(failure, &batch)),
                Err(failure) => waiting.extend(self.take_apart(batch, &failure)),
            }
            self.bar
                .set_message(format!("{} started", self.count.started + self.count.existing));
        }
        Ok(())
    }

    /// One request, repeated while the node is not there.
    async fn post(&self, batch: &[Line]) -> Done<Value> {
        let body = Value::Array(batch.iter().map(|line| line.run.clone()).collect());
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE_FIRST;
        loop {
            match self.client.post("/runs", Some(&body)).await {
                Err(failure) if failure.exit == Exit::Unavailable && Instant::now() < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_LAST);
                }
                answer => return answer,
            }
        }
    }

    fn account(&mut self, batch: &[Line], answers: &Value) -> Done {
        let answers = answers.as_array().map(Vec::as_slice).unwrap_or_default();
        if answers.len() != batch.len() {
            return Err(Failure::new(
                Exit::Failure,
                format!("{} runs were sent, {} answered", batch.len(), answers.len()),
            ));
        }
        let unknown = |answer: &Value| answer["error"]["code"] == "UNKNOWN_TARGET";
        if self.count.started + self.count.existing == 0 && answers.iter().all(unknown) {
            let message = output::cell(&answers[0]["error"]["message"]);
            return Err(Failure::new(Exit::NotFound, message));
        }
        for (line, answer) in batch.iter().zip(answers) {
            match &answer["error"] {
                Value::Null if answer["existing"] == true => self.count.existing += 1,
                Value::Null => self.count.started += 1,
                error => {
                    let why = format!(
                        "{} ({})",
                        output::cell(&error["message"]),
                        output::cell(&error["code"])
                    );
                    self.refuse(&Refusal {
                        number: line.number,
                        why,
                    });
                }
            }
        }
        Ok(())
    }

    /// The node took nothing of the batch: refuses the lines that it names, or halves the batch until it is one line.
    fn take_apart(&mut self, mut batch: Vec<Line>, failure: &Failure) -> Vec<Vec<Line>> {
        let problems = failure
            .answer
            .as_ref()
            .and_then(|answer| answer["details"]["problems"].as_array());
        let mut named: Vec<(usize, &Value)> = problems
            .into_iter()
            .flatten()
            .filter_map(|problem| Some((index_of(problem["path"].as_str()?)?, problem)))
            .filter(|(index, _)| *index < batch.len())
            .collect();
        named.sort_by_key(|(index, _)| *index);
        named.dedup_by_key(|(index, _)| *index);
        if named.is_empty() && batch.len() == 1 {
            let number = batch[0].number;
            let why = failure.message.clone();
            self.refuse(&Refusal { number, why });
            return Vec::new();
        }
        if named.is_empty() {
            let second = batch.split_off(batch.len() / 2);
            // the last is sent first
            return vec![second, batch];
        }
        for (index, problem) in named.iter().rev() {
            let line = batch.remove(*index);
            let why = output::cell(&problem["message"]).replace(&format!("[{index}]."), "");
            self.refuse(&Refusal {
                number: line.number,
                why,
            });
        }
        vec![batch]
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.count.refused += 1;
        let Refusal { number, why } = refusal;
        let text = if self.json {
            json!({ "line": number, "message": why }).to_string()
        } else {
            format!("line {number}: {why}")
        };
        self.bar.suspend(|| output::note(&text));
    }

    /// The rest was not sent: what the user needs in order to go on.
    fn broken(&self, failure: Failure, batch: &[Line]) -> Failure {
        let from = batch.first().map(|line| line.number).unwrap_or_default();
        let hint = format!(
            "Nothing from line {from} on is known to be started. Repeat the command with --correlation-id {}: what was started is not started again.",
            self.prefix
        );
        failure.hint(hint)
    }

    fn tell(&self) {
        let Count {
            started,
            existing,
            refused,
        } = self.count;
        if self.json {
            output::json(
                &json!({ "started": started, "existing": existing, "refused": refused, "correlation_id": self.prefix }),
            );
        } else {
            output::line(&format!(
                "{started} started, {existing} existed, {refused} refused (correlation ids {}:<line>)",
                self.prefix
            ));
        }
    }
}

/// The item that a problem's path names: `[3].priority`.
fn index_of(path: &str) -> Option<usize> {
    path.strip_prefix('[')?.split(']').next()?.parse().ok()
}
