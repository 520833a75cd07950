//! Reading runs into memory: bodies, pasts, definitions. Builds the machine's runs, so that the driver only drives.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tramline_core::Millis;
use tramline_core::definition::{self, Workflow};
use tramline_core::json::Json;
use tramline_core::machine::{Failure, FunctionPlan, Past, Plan, Run};
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
/// When nothing has been asked for so long the connection is made without: a start needs the machine for other things first.
const CONNECT_AFTER: Duration = Duration::from_millis(100);
/// Definitions kept compiled; beyond it the cache starts anew.
const DEFINITIONS_MAX: usize = 1_000;
/// Policies of one function that are kept; nearly always all its runs have the same.
const POLICIES_MAX: usize = 8;

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

/// The plan of a function's runs with this text of a policy.
type KeptPlan = (Option<JsonText>, Arc<FunctionPlan>);

struct Loading {
    loader: Option<Loader>,
    definitions: HashMap<(String, i32), Result<Arc<Workflow>, String>>,
    /// Plans of functions, those of each by policy.
    functions: HashMap<String, Vec<KeptPlan>>,
    /// What templates see of a run that has none.
    no_info: Arc<Value>,
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
        loader: None,
        definitions: HashMap::new(),
        functions: HashMap::new(),
        no_info: Arc::default(),
        function_timeout_ms,
    };
    while let Some(mut job) = loading.next_job(&db, &mut jobs).await {
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
    /// Waits for a job. Nearly all that a started node begins with is read by discovery, so the connection is made when there is a
    /// moment for it, or something to be read.
    async fn next_job(&mut self, db: &Db, jobs: &mut mpsc::Receiver<LoadJob>) -> Option<LoadJob> {
        if self.loader.is_none() {
            if let Ok(job) = tokio::time::timeout(CONNECT_AFTER, jobs.recv()).await {
                return job;
            }
            // What fails now is tried again with the first job.
            self.loader = Loader::connect(db).await.ok();
        }
        jobs.recv().await
    }

    async fn load(&mut self, db: &Db, job: &mut LoadJob) -> Result<Vec<LoadedRun>, StoreError> {
        let read: HashSet<Uuid, RandomState> = job.bodies.iter().map(|b| b.run_id).collect();
        let (mut native, mut foreign, mut unsure) = (Vec::new(), Vec::new(), Vec::new());
        for id in job.ids.iter().filter(|id| !read.contains(&id.run_id)) {
            match id.foreign {
                Some(false) => native.push(id.run_id),
                Some(true) => foreign.push(id.run_id),
                None => unsure.push(id.run_id),
            }
        }
        let connection = &mut self.loader;
        if !unsure.is_empty() {
            let loader = connected(connection, db).await?;
            for (id, is_foreign) in loader.locate(&unsure).await? {
                if is_foreign {
                    foreign.push(id)
                } else {
                    native.push(id)
                }
            }
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        if !native.is_empty() || !foreign.is_empty() {
            let loader = connected(connection, db).await?;
            (a, b) = tokio::try_join!(loader.bodies(&native, false), loader.bodies(&foreign, true))?;
        }
        let mut pasts = if job.past {
            let ids: Vec<Uuid> = job.ids.iter().map(|i| i.run_id).collect();
            connected(connection, db).await?.pasts(&ids).await?
        } else {
            HashMap::new()
        };
        for body in a.iter().chain(&b).chain(&job.bodies) {
            let Some(version) = body.version else { continue };
            let key = (body.target.clone(), version);
            if !self.definitions.contains_key(&key) {
                let loader = connected(connection, db).await?;
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
        let mut bodies: HashMap<Uuid, Body, RandomState> = bodies.map(|b| (b.run_id, b)).collect();
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

    fn build(&mut self, body: Body, past: Option<Result<Past, String>>, unclean: bool) -> Loaded {
        let mut defect = None;
        let metadata = body
            .metadata
            .as_ref()
            .and_then(|text| read("metadata", text).map_err(|e| defect = Some(e)).ok());
        let past = past.map(|past| {
            past.unwrap_or_else(|reason| {
                let message = format!("what is recorded of the run cannot be read: {reason}");
                defect = Some(Failure::new("invalid_input", message));
                Past::default()
            })
        });
        let input = Json::of_text(body.input.into_text()).unwrap_or_else(|reason| {
            let message = format!("input cannot be read: {reason}");
            defect = Some(Failure::new("invalid_input", message));
            Json::default()
        });
        if body.version.is_some() && body.retry.is_some() {
            let message = "retry: is for runs of functions; the steps of a workflow carry their own";
            defect = Some(Failure::new("invalid_input", message));
        }
        let plan = self
            .plan(&body.target, body.version, body.retry.as_ref())
            .unwrap_or_else(|failure| {
                defect = Some(failure);
                Plan::Function(self.plain(&body.target))
            });
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
        let planned_at = body.scheduled_at.unwrap_or(body.queued_at);
        let period = metadata
            .as_ref()
            .and_then(|metadata| period_of(planned_at, metadata));
        let key = period
            .as_ref()
            .map(|p| format!("{}/{}", p.schedule, tramline_store::rows::timestamp(p.due_at)).into());
        // Only templates look at it, and a function has none.
        let info = match &plan {
            Plan::Function(_) => self.no_info.clone(),
            Plan::Workflow(_) => Arc::new(json!({
                "id": body.run_id, "target": body.target, "kind": body.kind, "version": body.version,
                "correlation_id": body.correlation_id, "source": body.source,
                "queued_at": tramline_store::rows::timestamp(body.queued_at).to_string(),
            })),
        };
        let run = Run::new(body.run_id, plan, Arc::new(input), info, key);
        let run = match past {
            Some(past) => run.recover(past, unclean),
            None => run,
        };
        Loaded {
            run,
            foreign: body.foreign,
            scheduled_at: body.scheduled_at,
            period: period.map(Box::new),
            trace: metadata.as_ref().and_then(trace_of).map(Box::new),
            defect,
            gate: body.gate,
            priority: body.priority,
        }
    }

    /// What a run of a target executes, or why it cannot.
    fn plan(
        &mut self,
        target: &str,
        version: Option<i32>,
        policy: Option<&JsonText>,
    ) -> Result<Plan, Failure> {
        let Some(version) = version else {
            return self.function_plan(target, policy).map(Plan::Function);
        };
        let reason = match self.definitions.get(&(target.to_owned(), version)) {
            Some(Ok(workflow)) => return Ok(Plan::Workflow(workflow.clone())),
            Some(Err(reason)) => reason.clone(),
            None => "its definition was not read".to_owned(),
        };
        Err(Failure::new("invalid_definition", reason))
    }

    /// The plan of a function's runs with one policy, which they share: made once, as long as there are not very many.
    fn function_plan(&mut self, name: &str, policy: Option<&JsonText>) -> Result<Arc<FunctionPlan>, Failure> {
        let known = self.functions.get(name).into_iter().flatten();
        if let Some((_, plan)) = known.into_iter().find(|(text, _)| text.as_ref() == policy) {
            return Ok(plan.clone());
        }
        let retry = match policy {
            None => RetryPolicy::default(),
            Some(text) => definition::parse_retry(&read("retry", text)?, "retry")
                .map_err(|found| Failure::new("invalid_input", problems(&found)))?,
        };
        let plan = Arc::new(FunctionPlan {
            name: name.to_owned(),
            timeout_ms: self.function_timeout_ms,
            retry,
        });
        if self.functions.len() >= DEFINITIONS_MAX {
            self.functions.clear();
        }
        let plans = self.functions.entry(name.to_owned()).or_default();
        if plans.len() >= POLICIES_MAX {
            plans.clear();
        }
        plans.push((policy.cloned(), plan.clone()));
        Ok(plan)
    }

    /// The plan of a run that is not called, because something is wrong with it.
    fn plain(&self, name: &str) -> Arc<FunctionPlan> {
        Arc::new(FunctionPlan {
            name: name.to_owned(),
            timeout_ms: self.function_timeout_ms,
            retry: RetryPolicy::default(),
        })
    }
}

async fn connected<'a>(loader: &'a mut Option<Loader>, db: &Db) -> Result<&'a Loader, StoreError> {
    Ok(match loader {
        Some(loader) => loader,
        None => loader.insert(Loader::connect(db).await?),
    })
}

fn read(name: &str, text: &JsonText) -> Result<Value, Failure> {
    text.read().map_err(|reason| {
        let message = format!("{name} cannot be read: {reason}");
        Failure::new("invalid_input", message)
    })
}

/// Schedule and due time that a scheduled run carries in its metadata.
fn period_of(planned_at: Millis, metadata: &Value) -> Option<Period> {
    let due: jiff::Timestamp = metadata.get("period")?.as_str()?.parse().ok()?;
    Some(Period {
        schedule: metadata.get("schedule")?.as_str()?.into(),
        due_at: due.as_millisecond(),
        planned_at,
        late_after_ms: metadata.get("late_after_ms").and_then(Value::as_i64),
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
