//! How the engine calls work.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tramline_core::json::Json;
use tramline_core::machine::{Failure, Outcome};
use tramline_core::trace::TraceParent;
use uuid::Uuid;

/// One attempt of a step (or of a run that is one call).
#[derive(Debug, Clone)]
pub struct Call {
    pub run_id: Uuid,
    /// Empty when the run is one call.
    pub step: String,
    pub generation: u32,
    pub attempt: u32,
    /// Epoch of the shard's ownership: the fence a callee may compare.
    pub fence: i64,
    pub function: String,
    /// What the callee gets: [`Json::parse`] reads it as a type of the caller's.
    pub body: Arc<Json>,
    /// The same on every automatic attempt and takeover.
    pub idempotency_key: String,
    /// Due time of the schedule's period, in Unix milliseconds, when the run was started by one.
    pub period: Option<i64>,
    /// The trace in which the run was started: `traceparent` of its metadata.
    pub trace: Option<TraceParent>,
    pub timeout: Duration,
}

/// What became of a call.
#[derive(Debug)]
pub enum Answer {
    /// It was made.
    Done(Outcome),
    /// There is no room for it now: it was not made, and is handed back. The engine makes it again later; no attempt is
    /// used up, and no time of its timeout.
    Full { call: Box<Call>, retry_in: Duration },
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        Self::Done(outcome)
    }
}

/// Executes calls. The engine bounds the time itself; an implementation stops its work when the future is dropped. A panic fails the
/// call, with the code `panic`.
pub trait Invoke: Send + Sync + 'static {
    /// Makes one call. Failure of the callee is an [`Outcome`], not an error. What takes long to compute belongs on a thread of its own
    /// (`spawn_blocking`): like any future this one holds up its worker of the runtime between two waits.
    fn invoke(&self, call: Call) -> BoxFuture<'static, Answer>;

    /// Periods of these schedules begin soon ([`crate::EngineConfig::warm_before`]): what makes their first calls quicker may
    /// be done now. Returns at once; nothing depends on it, and it may be told of a period that is then skipped.
    fn expect(&self, _schedules: Vec<String>) {}
}

type Handler = Arc<dyn Fn(Call) -> BoxFuture<'static, Answer> + Send + Sync>;

/// Handlers in the node's own process, by name: for programs that embed the engine, for tests and benchmarks.
#[derive(Clone, Default)]
pub struct Handlers {
    by_name: HashMap<String, Handler>,
}

impl Handlers {
    /// Registers a handler.
    #[must_use]
    pub fn with<F, Fut>(self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        self.with_answers(name, move |call| handler(call).map(Answer::Done))
    }

    /// Registers a handler that may be full.
    #[must_use]
    pub fn with_answers<F, Fut>(mut self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        self.by_name
            .insert(name.into(), Arc::new(move |call| Box::pin(handler(call))));
        self
    }

    /// Names of all handlers.
    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }
}

impl Invoke for Handlers {
    fn invoke(&self, call: Call) -> BoxFuture<'static, Answer> {
        match self.by_name.get(&call.function) {
            Some(handler) => handler(call),
            None => {
                let failure = Failure::new(
                    "unknown_function",
                    format!("no function named \"{}\" is here", call.function),
                );
                Box::pin(async move { Outcome::Failed(failure).into() })
            }
        }
    }
}
