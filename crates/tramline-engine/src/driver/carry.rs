//! Calls: made, waited for, told.
//!
//! The calls that one turn of the driver decides on are made together: a handler in this process often has its result at once, and a
//! task and a message for each would cost several times what it does. As many tasks as the runtime has workers take them from one line,
//! so that a handler which does not give way holds up its worker, as it always would, and no call. A call that has to wait goes on in
//! a task of its own.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{AbortRegistration, Abortable, BoxFuture, CatchUnwind};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tramline_core::Millis;
use tramline_core::json::check_storable;
use tramline_core::machine::{self, Failure, Outcome};
use uuid::Uuid;

use super::Outside;
use crate::invoke::{Answer, Call, Invoke};
use crate::message::{CallBack, CallEnded, CallFull, Message};

/// Largest output of a call that is kept: larger results belong into an artifact, referred to by name.
pub const OUTPUT_MAX_BYTES: usize = 1 << 20;

/// Results that are told together: the driver goes on with these while others are made.
const BACK_MAX: usize = 32;
/// How long calls are made before other tasks of the worker have their turn.
const TURN: Duration = Duration::from_micros(100);

/// A call that is to be made.
pub(super) struct Due {
    /// In a box, of which nothing is left when the call waits: there is one for every call that is out.
    pub(super) request: Box<Call>,
    pub(super) step: u32,
    pub(super) started_at: Millis,
    /// Ends it when the driver aborts the call.
    pub(super) stop: AbortRegistration,
}

/// Calls that are made together.
struct Wave {
    due: std::vec::IntoIter<Due>,
    /// Those that have ended, and have not been told. Whoever is next to tell tells them: it need not be who made them.
    back: Vec<CallBack>,
}

/// Has calls made.
pub(super) fn carry_out(outside: &Arc<Outside>, due: Vec<Due>) {
    let calls = due.len();
    if calls < 2 {
        for one in due {
            tokio::spawn(alone(outside.clone(), one));
        }
        return;
    }
    let wave = Arc::new(Mutex::new(Wave {
        due: due.into_iter(),
        back: Vec::new(),
    }));
    for _ in 0..calls.min(outside.workers) {
        tokio::spawn(carry(outside.clone(), wave.clone()));
    }
}

/// Makes calls of a wave until there is none left.
async fn carry(outside: Arc<Outside>, wave: Arc<Mutex<Wave>>) {
    let mut since = Instant::now();
    let mut ended = None;
    loop {
        let (next, back) = {
            let mut wave = wave.lock().unwrap_or_else(PoisonError::into_inner);
            wave.back.extend(ended.take());
            let next = wave.due.next();
            let are_told = next.is_none() || wave.back.len() >= BACK_MAX;
            (next, are_told.then(|| std::mem::take(&mut wave.back)))
        };
        let mut wakes = false;
        if let Some(back) = back.filter(|back| !back.is_empty()) {
            wakes = true;
            if let Some(told) = told(&outside.driver, back) {
                told.await;
            }
        }
        let Some(due) = next else { return };
        // Who was woken by this worker is run by no other: it must not come behind a call that may take long.
        if wakes || since.elapsed() >= TURN {
            give_way().await;
            since = Instant::now();
        }
        let (made, mut call) = due.begin(&*outside.invoke);
        match poll_fn(|context| Poll::Ready(Pin::new(&mut call).poll(context))).await {
            Poll::Ready(answer) => ended = made.came_back(Some(answer)),
            // Its own task asks it again, and is woken by what it waits for.
            Poll::Pending => {
                tokio::spawn(rest(outside.clone(), made, call));
                give_way().await;
            }
        }
    }
}

/// Lets the other tasks of this worker go first. Other than the runtime's own way it leaves this task where other workers find
/// it, should one of those not give way in turn.
pub(super) async fn give_way() {
    let mut waited = false;
    poll_fn(|context| match std::mem::replace(&mut waited, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

async fn alone(outside: Arc<Outside>, due: Due) {
    let (made, call) = due.begin(&*outside.invoke);
    rest(outside, made, call).await;
}

#[expect(
    clippy::manual_async_fn,
    reason = "it would keep its arguments twice: what a call keeps while it waits is small"
)]
fn rest(outside: Arc<Outside>, made: Made, mut call: Carried) -> impl Future<Output = ()> + Send {
    async move {
        let limit = Duration::from_millis(made.timeout_ms);
        let ended = tokio::time::timeout(limit, &mut call).await;
        if let Some(back) = made.came_back(ended.ok())
            && let Some(told) = told(&outside.driver, vec![back])
        {
            told.await;
        }
    }
}

/// A call that is out, until it is aborted or its handler panics.
type Carried = Abortable<CatchUnwind<AssertUnwindSafe<BoxFuture<'static, Answer>>>>;
/// How it ends.
type Ended = <Carried as Future>::Output;

impl Due {
    fn begin(self, invoke: &dyn Invoke) -> (Made, Carried) {
        let request = &self.request;
        let made = Made {
            run_id: request.run_id,
            generation: request.generation,
            attempt: request.attempt,
            step: self.step,
            of_workflow: !request.step.is_empty(),
            started_at: self.started_at,
            timeout_ms: u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        let answer = match self.stop.handle().is_aborted() {
            // Not made at all; what stands here is not asked.
            true => Box::pin(std::future::pending()),
            false => sent(invoke, self.request),
        };
        let call = AssertUnwindSafe(answer).catch_unwind();
        (made, Abortable::new(call, self.stop))
    }
}

/// A call that was made.
#[derive(Clone, Copy)]
struct Made {
    run_id: Uuid,
    generation: u32,
    attempt: u32,
    step: u32,
    of_workflow: bool,
    started_at: Millis,
    timeout_ms: u64,
}

impl Made {
    /// What the driver is told of its end, which is none when its time is over; nothing when the driver aborted it.
    fn came_back(self, ended: Option<Ended>) -> Option<CallBack> {
        let step = self.step as usize;
        let outcome = match ended.transpose().ok()? {
            Some(Ok(Answer::Full { call, retry_in })) => {
                return Some(CallBack::Full(CallFull {
                    run_id: self.run_id,
                    call: handed_back(*call, step),
                    retry_in,
                }));
            }
            Some(Ok(Answer::Done(outcome))) => storable(outcome, self.of_workflow),
            Some(Err(panic)) => panicked(&*panic),
            None => {
                let reason = format!("no answer within {} ms", self.timeout_ms);
                Outcome::Failed(Failure::new("timeout", reason))
            }
        };
        Some(CallBack::Ended(CallEnded {
            run_id: self.run_id,
            step,
            generation: self.generation,
            attempt: self.attempt,
            outcome,
            started_at: self.started_at,
        }))
    }
}

/// Tells the driver, at once where it has room; else what is returned does. A closed channel means that the engine is gone; the
/// calls are repeated by the next owner.
fn told(driver: &Sender<Message>, back: Vec<CallBack>) -> Option<BoxFuture<'static, ()>> {
    let Err(TrySendError::Full(message)) = driver.try_send(Message::CallsBack(back)) else {
        return None;
    };
    let driver = driver.clone();
    Some(Box::pin(async move {
        let _ = driver.send(message).await;
    }))
}

// A function of its own: its end frees the box, which would stay until a future's end if it were moved out of in its middle.
fn sent(invoke: &dyn Invoke, request: Box<Call>) -> BoxFuture<'static, Answer> {
    catch_unwind(AssertUnwindSafe(|| invoke.invoke(*request)))
        .unwrap_or_else(|panic| Box::pin(std::future::ready(panicked(&*panic).into())))
}

/// A handler that panics has failed its call, and nothing else. The panic hook has told of it, with its place.
fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    let words = panic.downcast_ref::<&str>().copied();
    let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = words.unwrap_or("the handler panicked");
    Outcome::Failed(Failure::new("panic", message))
}

/// The call as the machine wanted it.
fn handed_back(call: Call, step: usize) -> machine::Call {
    machine::Call {
        step,
        step_name: call.step,
        generation: call.generation,
        attempt: call.attempt,
        function: call.function,
        body: call.body,
        timeout_ms: u64::try_from(call.timeout.as_millis()).unwrap_or(u64::MAX),
        idempotency_key: call.idempotency_key,
    }
}

/// The outcome as it is recorded: what the database cannot keep is a failure of the call, found here before it reaches a batch.
/// Its text is written here, and its tree dropped where it was made: the driver and the flusher serve all runs. Only the steps
/// of a workflow are looked into again.
fn storable(outcome: Outcome, of_workflow: bool) -> Outcome {
    let Outcome::Completed(output) = outcome else {
        return outcome;
    };
    // Asked before its text is written: a tree says more surely than a text what the database takes.
    if !output.is_sure()
        && let Err(problem) = check_storable(&output)
    {
        return Outcome::Failed(Failure::new(
            "invalid_output",
            format!("the result cannot be stored: {problem}"),
        ));
    }
    let size = output.text().len();
    if size > OUTPUT_MAX_BYTES {
        let message = format!(
            "the result has {size} bytes, the limit is {OUTPUT_MAX_BYTES}; store it and return a reference"
        );
        return Outcome::Failed(Failure::new("output_too_large", message));
    }
    Outcome::Completed(if of_workflow {
        output
    } else {
        output.into_text_alone()
    })
}
