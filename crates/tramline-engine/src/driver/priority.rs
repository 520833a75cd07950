//! Another priority class for a run that waits for its start.

use tramline_core::Millis;
use tramline_core::machine::{PRIORITY_PARKS, Row, asked_priority};
use tramline_core::status::RunStatus;
use tramline_store::discovery::Command;
use tramline_store::flush::Subject;
use uuid::Uuid;

use super::{Driver, Entry, Stage, Unit, Waiting};
use crate::flushing::What;

impl Entry {
    /// Known from its header alone: it waits in a ready queue or for its time, and nothing is recorded about it.
    pub(super) fn waits_for_start(&self) -> bool {
        matches!(self.stage, Stage::Ready | Stage::Prepared) && !self.past && self.foreign.is_some()
    }
}

impl Driver {
    /// Moves a run that waits for its start into the class that a command asks for, and records both.
    pub(super) fn change_class(&mut self, run_id: Uuid, command: Command) {
        let Ok(class) = asked_priority(command.args.as_ref()) else {
            // Refused with an event like everything that cannot be: for that the run is loaded.
            return self.load_for(run_id, command.shard, Waiting::Command(command));
        };
        self.move_to_class(run_id, class);
        let Some(entry) = self.state.entries.get_mut(&run_id) else {
            return;
        };
        // What is recorded about it now has to be read when it is loaded: a row names it, which its end takes away.
        entry.past = true;
        let shard = entry.shard;
        let subject = Subject {
            run_id,
            generation: 1,
            foreign: entry.foreign.unwrap_or_default(),
        };
        let command_id = command.command_id;
        let rows = [
            Row::Priority { priority: class },
            Row::Parked { why: PRIORITY_PARKS },
        ];
        let mut items = Vec::new();
        for what in rows
            .into_iter()
            .map(|row| What::Run(subject, row))
            .chain([What::CommandDone {
                command_id,
                run_id: Some(run_id),
            }])
        {
            items.extend(self.item(shard, what));
        }
        self.push(Unit {
            remember: Some(command_id),
            ..Unit::new(Some(run_id), shard, items)
        });
    }

    /// Makes a class the run's own, and moves it there if it waits in a ready queue.
    pub(super) fn move_to_class(&mut self, run_id: Uuid, class: u8) {
        let Some(entry) = self.state.entries.get_mut(&run_id) else {
            return;
        };
        let before = std::mem::replace(&mut entry.priority, class);
        if before != class && matches!(entry.stage, Stage::Ready) {
            // Linear, and rare: a person asks for it.
            self.state.ready.retain(|id| id != run_id);
            self.state.ready.push(class, 0, run_id);
        }
    }

    /// A run that was loaded only for something to be noted about it waits for its start as before. False when it has
    /// been started, or has to wait for its time first.
    pub(super) fn goes_back_to_its_queue(
        &mut self,
        run_id: Uuid,
        scheduled_at: Option<Millis>,
        now: Millis,
    ) -> bool {
        let Some(entry) = self.state.entries.get_mut(&run_id) else {
            return false;
        };
        let Stage::Live(live) = &entry.stage else {
            return false;
        };
        let fresh =
            live.run.status == RunStatus::Queued && live.run.generation == 1 && live.run.started_at.is_none();
        if entry.units == 0 || !fresh || scheduled_at.is_some_and(|at| at > now) {
            return false;
        }
        if self.state.limits.waiting.contains_key(&run_id) {
            self.wait_on(run_id);
            return true;
        }
        entry.stage = Stage::Ready;
        entry.past = true;
        self.state.active -= 1;
        let class = entry.priority;
        self.state.ready.retain(|id| id != run_id);
        self.state.ready.push(class, 0, run_id);
        true
    }
}
