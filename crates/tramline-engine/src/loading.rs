//! Reading runs into memory: bodies, pasts, definitions. Builds the machine's runs, so that the driver only drives.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tramline_core::definition::{self, Workflow};
use tramline_core::json::Json;
use tramline_core::machine::{Failure, Past, Plan, Run};
use tramline_core::retry::RetryPolicy;
use tramline_core::trace::{TRACEPARENT_KEY, TraceParent};
use tramline_store::rows::JsonText;
use tramline_store::runs::{Body, Loader};
use tramline_store::{Db, StoreError};
use uuid::Uuid;

use crate::flushing::words_of;
use crate::message::{Loaded, LoadedRun, Message, Period};

/// Runs read in one statement.
pub(crate) const LOAD_BATCH: usize = 500;
/// Definitions kept compiled; beyond it the cache starts anew.
const DEFINITIONS_MAX: usize = 1_000;

/// Runs to read.
#[derive(Default)]
pub(crate) struct LoadJob {
    pub(crate) ids: Vec<LoadId>,
    /// Rows of some of them that have been read already.
    pub(crate) bodies: Vec<Body>,
    /// Something may be recorded about them.
    pub(crate) past: bool,
}

/// One run to read.
#[derive(Clone, Copy)]
pub(crate) struct LoadId {
    pub(crate) run_id: Uuid,
    /// Which table; `None` = find out.
    pub(crate) foreign: Option<bool>,
    /// The shard came from a node that did not release it.
    pub(crate) unclean: bool,
    /// Of the ownership for which it is read: what another one has recorded since is not in it.
    pub(crate) epoch: i64,
}

struct Loading {
    loader: Option<Loader>,
    definitions: HashMap<(String, i32), Result<Arc<Workflow>, String>>,
    function_timeout_ms: u64,
}

/// Runs until the channel closes.
pub(crate) async fn run(
    db: Db,
    function_timeout: Duration,
    mut jobs: mpsc::Receiver<LoadJob>,
    out: mpsc::Sender<Message>,
) {
    let function_timeout_ms = u64::try_from(function_timeout.as_millis()).unwrap_or(u64::MAX);
    let mut loading = Loading {
        // Beside the first scan; what fails now is tried again with the first job.
        loader: Loader::connect(&db).await.ok(),
        definitions: HashMap::new(),
        function_timeout_ms,
    };
    while let Some(mut job) = jobs.recv().await {
        let loaded = loop {
            match loading.load(&db, &mut job).await {
                Ok(loaded) => break loaded,
                Err(error) => {
                    tracing::warn!(error = %words_of(&error), "runs cannot be read; trying again");
                    loading.loader = None;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if out.is_closed() {
                        return;
                    }
                }
            }
        };
        if out.send(Message::Loaded(loaded)).await.is_err() {
            return;
        }
    }
}

impl Loading {
    async fn load(&mut self, db: &Db, job: &mut LoadJob) -> Result<Vec<LoadedRun>, StoreError> {
        let read: HashSet<Uuid> = job.bodies.iter().map(|b| b.run_id).collect();
        if self.loader.is_none() {
            self.loader = Some(Loader::connect(db).await?);
        }
        let Some(loader) = &self.loader else {
            return Ok(Vec::new());
        };
        let (mut native, mut foreign, mut unsure) = (Vec::new(), Vec::new(), Vec::new());
        for id in job.ids.iter().filter(|id| !read.contains(&id.run_id)) {
            match id.foreign {
                Some(false) => native.push(id.run_id),
                Some(true) => foreign.push(id.run_id),
                None => unsure.push(id.run_id),
            }
        }
        if !unsure.is_empty() {
            for (id, is_foreign) in loader.locate(&unsure).await? {
                if is_foreign {
                    foreign.push(id)
                } else {
                    native.push(id)
                }
            }
        }
        let (a, b) = tokio::try_join!(loader.bodies(&native, false), loader.bodies(&foreign, true))?;
        let mut pasts = if job.past {
            let ids: Vec<Uuid> = job.ids.iter().map(|i| i.run_id).collect();
            loader.pasts(&ids).await?
        } else {
            HashMap::new()
        };
        for body in a.iter().chain(&b).chain(&job.bodies) {
            let Some(version) = body.version else { continue };
            let key = (body.target.clone(), version);
            if !self.definitions.contains_key(&key) {
                let found = loader.definition(&body.target, version).await?;
                if self.definitions.len() >= DEFINITIONS_MAX {
                    self.definitions.clear();
                }
                let compiled = found
                    .ok_or_else(|| format!("version {version} of workflow \"{}\" is gone", body.target))
                    // Which functions exist was checked when it was published; a missing one now fails its step.
                    .and_then(|d| definition::parse(&d.definition, &|_| true).map_err(|p| problems(&p)))
                    .map(Arc::new);
                self.definitions.insert(key, compiled);
            }
        }
        let bodies = a.into_iter().chain(b).chain(job.bodies.drain(..));
        let mut bodies: HashMap<Uuid, Body> = bodies.map(|b| (b.run_id, b)).collect();
        Ok(job
            .ids
            .iter()
            .map(|id| LoadedRun {
                run_id: id.run_id,
                epoch: id.epoch,
                loaded: bodies.remove(&id.run_id).map(|body| {
                    let past = pasts.remove(&id.run_id);
                    self.build(body, past, id.unclean)
                }),
            })
            .collect())
    }

    fn build(&self, body: Body, past: Option<Result<Past, String>>, unclean: bool) -> Loaded {
        let mut unreadable = None;
        let mut read = |name: &str, text: Option<&JsonText>| match text?.read() {
            Ok(value) => Some(value),
            Err(reason) => {
                let message = format!("{name} cannot be read: {reason}");
                unreadable = Some(Failure::new("invalid_input", message));
                None
            }
        };
        let input = Json::of_text(body.input.text());
        let metadata = read("metadata", body.metadata.as_ref());
        let policy = read("retry", body.retry.as_ref());
        let past = past.map(|past| {
            past.unwrap_or_else(|reason| {
                let message = format!("what is recorded of the run cannot be read: {reason}");
                unreadable = Some(Failure::new("invalid_input", message));
                Past::default()
            })
        });
        let input = input.unwrap_or_else(|reason| {
            let message = format!("input cannot be read: {reason}");
            unreadable = Some(Failure::new("invalid_input", message));
            Json::default()
        });
        let mut defect = unreadable;
        let mut retry = RetryPolicy::default();
        match policy
            .as_ref()
            .map(|policy| definition::parse_retry(policy, "retry"))
        {
            Some(_) if body.version.is_some() => {
                let message = "retry: is for runs of functions; the steps of a workflow carry their own";
                defect = Some(Failure::new("invalid_input", message));
            }
            Some(Ok(policy)) => retry = policy,
            Some(Err(found)) => defect = Some(Failure::new("invalid_input", problems(&found))),
            None => {}
        }
        let function = |name: &str| Plan::Function {
            name: name.to_owned(),
            timeout_ms: self.function_timeout_ms,
            retry: retry.clone(),
        };
        let plan = match body.version {
            None => function(&body.target),
            Some(version) => match self.definitions.get(&(body.target.clone(), version)) {
                Some(Ok(workflow)) => Plan::Workflow(workflow.clone()),
                other => {
                    let reason = match other {
                        Some(Err(reason)) => reason.clone(),
                        _ => "its definition was not read".to_owned(),
                    };
                    defect = Some(Failure::new("invalid_definition", reason));
                    function(&body.target)
                }
            },
        };
        if let (Plan::Workflow(workflow), true) = (&plan, past.as_ref().is_none_or(|p| p.steps.is_empty())) {
            let found = workflow.check_input(&input);
            if !found.is_empty() {
                let places = found
                    .iter()
                    .map(|p| json!({ "path": p.path, "message": p.message }))
                    .collect();
                let message = format!("the input does not fit the workflow: {}", problems(&found));
                defect = Some(Failure {
                    details: Some(places),
                    ..Failure::new("invalid_input", message)
                });
            }
        }
        let period = period_of(&body, metadata.as_ref());
        let key = match &period {
            Some(p) => format!("{}/{}", p.schedule, tramline_store::rows::timestamp(p.due_at)),
            None => body.run_id.to_string(),
        };
        // Only templates look at it, and a function has none.
        let info = match &plan {
            Plan::Function { .. } => Value::Null,
            Plan::Workflow(_) => json!({
                "id": body.run_id, "target": body.target, "kind": body.kind, "version": body.version,
                "correlation_id": body.correlation_id, "source": body.source,
                "queued_at": tramline_store::rows::timestamp(body.queued_at).to_string(),
            }),
        };
        let run = Run::new(body.run_id, plan, Arc::new(input), Arc::new(info), key);
        let run = match past {
            Some(past) => run.recover(past, unclean),
            None => run,
        };
        Loaded {
            run,
            foreign: body.foreign,
            scheduled_at: body.scheduled_at,
            period,
            trace: metadata.as_ref().and_then(trace_of).map(Box::new),
            defect,
            gate: body.gate,
            priority: body.priority,
        }
    }
}

/// Schedule and due time that a scheduled run carries in its metadata.
fn period_of(body: &Body, metadata: Option<&Value>) -> Option<Period> {
    let metadata = metadata?;
    let due: jiff::Timestamp = metadata.get("period")?.as_str()?.parse().ok()?;
    Some(Period {
        schedule: metadata.get("schedule")?.as_str()?.into(),
        due_at: due.as_millisecond(),
        planned_at: body.scheduled_at.unwrap_or(body.queued_at),
        asked_for: metadata.get("asked_for").and_then(Value::as_bool) == Some(true),
        passed: false,
        recorded: false,
    })
}

/// The trace that whoever started the run was in.
fn trace_of(metadata: &Value) -> Option<TraceParent> {
    TraceParent::parse(metadata.get(TRACEPARENT_KEY)?.as_str()?)
}

fn problems(problems: &[definition::Problem]) -> String {
    problems
        .iter()
        .map(|p| format!("{}: {}", p.path, p.message))
        .collect::<Vec<_>>()
        .join("; ")
}
