//! Calls that are out, and those that wait for room: on this node, at their function, or at a host that was full.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::AbortHandle;
use tramline_core::Millis;
use tramline_core::machine;
use tramline_store::shards::NodeLoad;
use uuid::Uuid;

use super::carry::{Due, carry_out};
use super::{Driver, Entry, Stage};
use crate::invoke::Call;
use crate::message::{CallEnded, CallFull};

/// Shortest and longest pause after a host was full, whatever it asks for.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// All calls of this node.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) out: usize,
    /// Calls that wait for one that is out to end.
    waiting: VecDeque<(Uuid, machine::Call)>,
    /// Functions whose calls are bounded, or were handed back.
    functions: HashMap<Arc<str>, Slots>,
    /// Calls that count as out, and are made when the driver has looked at all that it was told.
    due: Vec<Due>,
}

/// One call that is out.
pub(super) struct Out {
    pub(super) step: u32,
    pub(super) attempt: u32,
    /// When its time is over.
    pub(super) until: Millis,
    stop: AbortHandle,
    /// Where it counts besides.
    function: Option<Arc<str>>,
}

/// Calls of one function.
struct Slots {
    max: usize,
    out: usize,
    /// Its host was full: nothing is sent before this time.
    not_before: Millis,
    waiting: VecDeque<(Uuid, machine::Call)>,
}

impl Calls {
    pub(super) fn new(caps: &HashMap<String, usize>) -> Self {
        let functions = caps
            .iter()
            .map(|(name, max)| (name.as_str().into(), Slots::new(*max)));
        Self {
            functions: functions.collect(),
            ..Self::default()
        }
    }

    /// When a call may be made again that was handed back. Those that wait for an end are not waited for by the clock.
    pub(super) fn next_due(&self, now: Millis) -> Option<Millis> {
        let waiting = self.functions.values().filter(|slots| !slots.waiting.is_empty());
        waiting.map(|slots| slots.not_before).filter(|at| *at > now).min()
    }

    /// Calls of a run that is not driven here any more.
    pub(super) fn drop_all(&mut self, calls: impl IntoIterator<Item = Out>) {
        for call in calls {
            call.stop.abort();
            self.ended(call);
        }
    }

    /// How many calls wait before this one for a place of the node or of its function.
    pub(super) fn waiting_before(&self, run_id: Uuid, step: usize) -> Option<usize> {
        let lines = self.functions.values().map(|slots| &slots.waiting);
        lines.chain([&self.waiting]).find_map(|line| {
            line.iter()
                .position(|(id, call)| *id == run_id && call.step == step)
        })
    }

    /// How full the node is with calls.
    pub(super) fn load(&self, calls_max: usize, now: Millis) -> NodeLoad {
        let full = self
            .functions
            .iter()
            .filter(|(_, s)| !s.waiting.is_empty() && !s.has_room(now));
        let mut full: Vec<String> = full.map(|(name, _)| name.to_string()).collect();
        full.sort_unstable();
        let in_functions: usize = self.functions.values().map(|slots| slots.waiting.len()).sum();
        NodeLoad {
            calls: self.out,
            calls_max,
            calls_waiting: self.waiting.len() + in_functions,
            full,
            ..NodeLoad::default()
        }
    }

    pub(super) fn ended(&mut self, call: Out) {
        self.out -= 1;
        if let Some(slots) = call.function.and_then(|name| self.functions.get_mut(&name)) {
            slots.out -= 1;
        }
    }
}

impl Slots {
    fn new(max: usize) -> Self {
        Self {
            max,
            out: 0,
            not_before: Millis::MIN,
            waiting: VecDeque::new(),
        }
    }

    fn has_room(&self, now: Millis) -> bool {
        self.out < self.max && self.not_before <= now
    }
}

impl Driver {
    /// Makes the calls that waited for room, as far as there is room now.
    pub(super) fn make_waiting_calls(&mut self) {
        if self.state.stopping.is_some() {
            return;
        }
        let now = self.state.clock.now();
        let ready: Vec<Arc<str>> = self
            .state
            .calls
            .functions
            .iter()
            .filter(|(_, slots)| !slots.waiting.is_empty() && slots.has_room(now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ready {
            while self.state.calls.out < self.config.calls_max
                && let Some(slots) = self.state.calls.functions.get_mut(&name)
                && slots.has_room(now)
                && let Some((run_id, call)) = slots.waiting.pop_front()
            {
                if self.is_wanted(run_id, &call) {
                    self.send_call(run_id, call, Some(name.clone()));
                }
            }
        }
        while self.state.calls.out < self.config.calls_max {
            let Some((run_id, call)) = self.state.calls.waiting.pop_front() else {
                return;
            };
            if self.is_wanted(run_id, &call) {
                self.call(run_id, call);
            }
        }
    }

    fn is_wanted(&self, run_id: Uuid, call: &machine::Call) -> bool {
        matches!(self.state.entries.get(&run_id), Some(Entry { stage: Stage::Live(live), .. })
            if live.run.generation == call.generation
                && live.run.steps.get(call.step).is_some_and(|s| s.in_flight && s.attempt == call.attempt))
    }

    pub(super) fn call(&mut self, run_id: Uuid, call: machine::Call) {
        if self.state.calls.out >= self.config.calls_max {
            self.state.calls.waiting.push_back((run_id, call));
            return;
        }
        let mut function = None;
        if !self.state.calls.functions.is_empty()
            && let Some((name, _)) = self.state.calls.functions.get_key_value(call.function.as_str())
        {
            let name = name.clone();
            let now = self.state.clock.now();
            if let Some(slots) = self.state.calls.functions.get_mut(&name)
                && (!slots.waiting.is_empty() || !slots.has_room(now))
            {
                return slots.waiting.push_back((run_id, call));
            }
            function = Some(name);
        }
        self.send_call(run_id, call, function);
    }

    fn send_call(&mut self, run_id: Uuid, call: machine::Call, function: Option<Arc<str>>) {
        let now = self.state.clock.now();
        let Some(Entry {
            shard,
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get_mut(&run_id)
        else {
            return;
        };
        // Of a shard that is given up it is the next owner's: nothing of it is out, its rows say all.
        let Some(fence) = self
            .state
            .shards
            .get(shard)
            .filter(|s| !s.leaves)
            .map(|s| s.epoch)
        else {
            return;
        };
        let timeout = Duration::from_millis(call.timeout_ms);
        let request = Call {
            run_id,
            step: call.step_name,
            generation: call.generation,
            attempt: call.attempt,
            fence,
            function: call.function,
            body: call.body,
            idempotency_key: call.idempotency_key,
            period: live.period.as_ref().map(|p| p.due_at),
            trace: live.trace.as_deref().copied(),
            timeout,
        };
        // A workflow has few hundred steps at most.
        let (step, attempt) = (u32::try_from(call.step).unwrap_or(u32::MAX), call.attempt);
        let (stop, stopped) = AbortHandle::new_pair();
        self.state.calls.due.push(Due {
            request: Box::new(request),
            step,
            started_at: now,
            stop: stopped,
        });
        live.calls.push(Out {
            step,
            attempt,
            until: now.saturating_add(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)),
            stop,
            function: function.clone(),
        });
        self.state.calls.out += 1;
        if let Some(slots) = function.and_then(|name| self.state.calls.functions.get_mut(&name)) {
            slots.out += 1;
        }
    }

    /// Has the calls made that were decided on since the last time.
    pub(super) fn carry_out_calls(&mut self) {
        carry_out(&self.outside, std::mem::take(&mut self.state.calls.due));
    }

    /// A call came back: with its result.
    pub(super) fn on_call_ended(&mut self, end: CallEnded) {
        if self.is_for_another(&end) {
            return;
        }
        let random = rand::random();
        let now = self.state.clock.now();
        self.call_is_back(end.run_id, end.step);
        let Some(Entry {
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get_mut(&end.run_id)
        else {
            return;
        };
        let event = machine::Event::CallEnded {
            step: end.step,
            generation: end.generation,
            attempt: end.attempt,
            outcome: end.outcome,
            started_at: end.started_at,
            now,
            random,
        };
        // A refusal means that nobody waits for this result any more.
        if let Ok(decision) = live.run.decide(event) {
            self.apply(end.run_id, decision);
        }
    }

    /// There was no room for a call: it is the first to be made when there is.
    pub(super) fn on_call_full(&mut self, full: CallFull) {
        if self.is_unmade_for_another(full.run_id, &full.call) || !self.is_wanted(full.run_id, &full.call) {
            return;
        }
        self.call_is_back(full.run_id, full.call.step);
        let pause = full.retry_in.clamp(RETRY_MIN, RETRY_MAX);
        let until = self.state.clock.now() + i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        let functions = &mut self.state.calls.functions;
        let slots = functions
            .entry(full.call.function.as_str().into())
            .or_insert_with(|| Slots::new(usize::MAX));
        slots.not_before = slots.not_before.max(until);
        slots.waiting.push_front((full.run_id, full.call));
    }

    /// A call of a run is not out any more.
    pub(super) fn call_is_back(&mut self, run_id: Uuid, step: usize) {
        if let Some(Entry {
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get_mut(&run_id)
            && let Some(at) = live.calls.iter().position(|call| call.step as usize == step)
        {
            let call = live.calls.swap_remove(at);
            self.state.calls.ended(call);
        }
    }

    pub(super) fn abort_calls(&mut self, run_id: Uuid) {
        if let Some(Entry {
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get_mut(&run_id)
        {
            let calls = std::mem::take(&mut live.calls);
            self.state.calls.drop_all(calls);
        }
    }
}
