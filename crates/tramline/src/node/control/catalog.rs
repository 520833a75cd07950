//! Workflow definitions and schedules.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use tramline_core::definition;
use tramline_gateway::control::{
    Actor, Checked, ControlError, Period, Problem, Published, Schedule, ScheduleOutcome, ScheduleVerb,
    WorkflowVersion,
};
use tramline_store::{StoreError, api, limits, schedules};

use super::{NodeControl, convert};

impl NodeControl {
    pub(super) async fn workflows(&self) -> Result<Vec<WorkflowVersion>, ControlError> {
        let rows = api::list_workflows(self.db()).await.map_err(convert::error)?;
        Ok(rows
            .into_iter()
            .map(|row| convert::workflow(row, false))
            .collect())
    }

    pub(super) async fn workflow(
        &self,
        name: String,
        version: Option<i64>,
    ) -> Result<WorkflowVersion, ControlError> {
        let missing = || ControlError::NotFound {
            what: "workflow",
            name: name.clone(),
        };
        let version = version.map(i32::try_from).transpose().map_err(|_| missing())?;
        let row = api::workflow(self.db(), &name, version)
            .await
            .map_err(convert::error)?;
        row.map(|row| convert::workflow(row, true)).ok_or_else(missing)
    }

    pub(super) async fn publish(&self, source: Value, actor: Actor) -> Result<Published, ControlError> {
        let compiled = self
            .compile(&source)
            .await?
            .map_err(|problems| ControlError::InvalidInput {
                missing: Vec::new(),
                problems: convert::problems(problems),
            })?;
        // First: no run of it is to go unlimited.
        limits::set_target(self.db(), &compiled.name, compiled.limit.as_ref())
            .await
            .map_err(|error| match error {
                StoreError::Refused { message, .. } => ControlError::InvalidInput {
                    missing: Vec::new(),
                    problems: vec![Problem {
                        path: "limit".to_owned(),
                        message,
                    }],
                },
                error => convert::error(error),
            })?;
        let by = actor.subject.unwrap_or(actor.role);
        let stored = api::store_definition(
            self.db(),
            &compiled.name,
            &compiled.source,
            &compiled.checksum,
            &compiled.required_inputs,
            Some(&by),
        )
        .await
        .map_err(convert::error)?;
        let workflow = self
            .workflow(compiled.name, Some(i64::from(stored.version)))
            .await?;
        Ok(Published {
            workflow,
            existing: !stored.created,
        })
    }

    pub(super) async fn validate(&self, source: Value) -> Result<Checked, ControlError> {
        Ok(match self.compile(&source).await? {
            Ok(workflow) => Checked {
                valid: true,
                problems: Vec::new(),
                required_inputs: workflow.required_inputs,
            },
            Err(problems) => Checked {
                valid: false,
                problems: convert::problems(problems),
                required_inputs: Vec::new(),
            },
        })
    }

    /// Compiles a definition against the functions that exist now.
    async fn compile(
        &self,
        source: &Value,
    ) -> Result<Result<definition::Workflow, Vec<definition::Problem>>, ControlError> {
        let functions = api::list_functions(self.db()).await.map_err(convert::error)?;
        let names: BTreeSet<String> = functions.into_iter().map(|function| function.name).collect();
        Ok(definition::parse(source, &|name| names.contains(name)))
    }

    pub(super) async fn schedules(&self) -> Result<Vec<Schedule>, ControlError> {
        let rows = schedules::list(self.db(), None).await.map_err(convert::error)?;
        let now = Timestamp::now().as_millisecond();
        Ok(rows.into_iter().map(|row| convert::schedule(row, now)).collect())
    }

    pub(super) async fn periods(&self, name: String, limit: u16) -> Result<Vec<Period>, ControlError> {
        let rows = schedules::periods(self.db(), &name, i64::from(limit))
            .await
            .map_err(convert::error)?;
        if rows.is_empty() {
            self.schedule(&name).await?;
        }
        Ok(rows.into_iter().map(convert::period).collect())
    }

    pub(super) async fn change_schedule_now(
        &self,
        name: String,
        verb: ScheduleVerb,
        actor: Actor,
    ) -> Result<ScheduleOutcome, ControlError> {
        let paused = match verb {
            ScheduleVerb::Pause => true,
            ScheduleVerb::Resume => false,
            ScheduleVerb::Trigger => return self.trigger(name, actor).await,
        };
        if !schedules::pause(self.db(), &name, paused)
            .await
            .map_err(convert::error)?
        {
            return Err(missing(&name));
        }
        Ok(ScheduleOutcome {
            name,
            enabled: !paused,
            run_id: None,
        })
    }

    /// One run outside the schedule's periods, with its target and input.
    async fn trigger(&self, name: String, actor: Actor) -> Result<ScheduleOutcome, ControlError> {
        let schedule = self.schedule(&name).await?;
        let run = api::NewRun {
            target: schedule.target,
            input: schedule.input,
            source: Some(format!("schedule:{name}")),
            triggered_by: Some(actor.subject.unwrap_or(actor.role)),
            ..api::NewRun::default()
        };
        let mut answers = api::enqueue(self.db(), &[run]).await.map_err(convert::error)?;
        self.wake();
        match answers.pop() {
            Some(Ok(accepted)) => Ok(ScheduleOutcome {
                name,
                enabled: !schedule.paused,
                run_id: Some(accepted.run_id),
            }),
            Some(Err(refused)) => Err(convert::refusal(refused)),
            None => Err(ControlError::Internal {
                reason: "one run was enqueued, none was answered".to_owned(),
            }),
        }
    }

    async fn schedule(&self, name: &str) -> Result<schedules::ScheduleRow, ControlError> {
        let rows = schedules::list(self.db(), None).await.map_err(convert::error)?;
        rows.into_iter()
            .find(|row| row.name == name)
            .ok_or_else(|| missing(name))
    }
}

fn missing(name: &str) -> ControlError {
    ControlError::NotFound {
        what: "schedule",
        name: name.to_owned(),
    }
}
