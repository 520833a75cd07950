//! The routes of `/api/v1` in words, for the OpenAPI document. The match is exhaustive: a route that is not described
//! does not compile.

mod node;
mod queues;
mod runs;
mod schedules;
mod workers;
mod workflows;

use super::{Does, Right, Route};
use crate::limits::{LIST_DEFAULT, LIST_MAX};
use crate::openapi::operation::{Callers, Operation, Param};

impl Route {
    /// The route in words.
    pub(crate) fn describe(&self) -> Operation {
        match self.does {
            Does::StartRuns => runs::start(),
            Does::ListRuns => runs::list(),
            Does::GetRun => runs::get(),
            Does::RunSteps => runs::steps(),
            Does::RunEvents => runs::events(),
            Does::ChangeRun(verb) => runs::change(verb),
            Does::BulkRuns => runs::bulk(),
            Does::WhyRun => runs::why(),
            Does::ListDeadLetters => runs::dead_letters(),
            Does::GetDeadLetter => runs::dead_letter(),
            Does::Redrive => runs::redrive(),
            Does::RedriveMany => runs::redrive_many(),
            Does::RunArtifacts => workers::artifacts(),
            Does::ClaimRuns => workers::claim(),
            Does::Heartbeat => workers::heartbeat(),
            Does::FinishRun => workers::finish(),
            Does::AppendEvent => workers::append_event(),
            Does::AddArtifact => workers::add_artifact(),
            Does::ListWorkflows => workflows::list(),
            Does::PublishWorkflow => workflows::publish(),
            Does::ValidateWorkflow => workflows::validate(),
            Does::GetWorkflow => workflows::get(),
            Does::ListSchedules => schedules::list(),
            Does::GetSchedule => schedules::get(),
            Does::PutSchedule => schedules::put(),
            Does::DeleteSchedule => schedules::delete(),
            Does::TriggerSchedule => schedules::trigger(),
            Does::BackfillSchedule => schedules::backfill(),
            Does::ChangeSchedule(verb) => schedules::change(verb),
            Does::SchedulePeriods => schedules::periods(),
            Does::ListCalendars => schedules::calendars(),
            Does::PutCalendar => schedules::put_calendar(),
            Does::DeleteCalendar => schedules::delete_calendar(),
            Does::ListQueues => queues::list(),
            Does::CreateQueue => queues::create(),
            Does::GetQueue => queues::get(),
            Does::SetQueue => queues::set(),
            Does::PauseQueue(paused) => queues::pause(paused),
            Does::WhyQueue => queues::why(),
            Does::Retention { apply } => node::retention(apply),
            Does::ListFunctions => node::functions(),
            Does::FunctionLogs => node::logs(),
            Does::SignLink => node::sign_link(),
            Does::Status => node::status(),
            Does::Document => node::document(),
            Does::Reference => node::reference(),
        }
    }

    /// Who may call it.
    pub(crate) fn callers(&self) -> Callers {
        match self.right {
            Right::Everybody => Callers::Everybody,
            Right::Service => Callers::Service,
            Right::OwnRuns => Callers::OwnRuns,
            Right::Start => Callers::Start,
        }
    }
}

fn run_id() -> Param {
    Param::id("run_id", "Id of the run")
}

fn queue() -> Param {
    Param::text("queue", "Name of the queue")
}

fn name(about: &'static str) -> Param {
    Param::text("name", about)
}

fn limit() -> Param {
    let mut limit = Param::whole("limit", "Rows of the answer", 1, u64::from(LIST_MAX));
    limit.schema["default"] = LIST_DEFAULT.into();
    limit
}
