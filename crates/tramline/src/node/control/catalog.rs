//! Workflow definitions.

use std::collections::BTreeSet;

use serde_json::Value;
use tramline_core::definition;
use tramline_gateway::control::{Actor, Checked, ControlError, Problem, Published, WorkflowVersion};
use tramline_store::{StoreError, api};

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
        let by = actor.subject.unwrap_or(actor.role);
        let declared = api::Compiled {
            checksum: &compiled.checksum,
            required_inputs: &compiled.required_inputs,
            limit: compiled.limit.as_ref(),
        };
        let stored =
            api::publish_definition(self.db(), &compiled.name, &compiled.source, &declared, Some(&by)).await;
        let stored = stored.map_err(|error| match error {
            StoreError::Refused { message, .. } => ControlError::InvalidInput {
                missing: Vec::new(),
                problems: vec![Problem {
                    path: "limit".to_owned(),
                    message,
                }],
            },
            error => convert::error(error),
        })?;
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
}
