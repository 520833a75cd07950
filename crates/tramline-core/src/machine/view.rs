//! What templates and conditions of a run may see.

use std::sync::Arc;

use serde_json::Value;

use super::{Plan, Run};
use crate::definition::Workflow;
use crate::json::Json;
use crate::status::StepStatus;
use crate::template::{Scope, StepView};

impl Run {
    /// Calls `f` with the scope of one step: the input, the run, and the ended ancestors in the order they finished.
    pub(super) fn with_scope<T>(
        &self,
        workflow: &Workflow,
        step: usize,
        f: impl FnOnce(&Scope<'_>) -> T,
    ) -> T {
        let ancestors = &workflow.steps[step].ancestors;
        let mut order: Vec<usize> = (0..self.steps.len()).collect();
        // Unfinished steps come first: a later finisher wins, and they have finished nothing. A step has more ancestors
        // than any of them, so that what ended in the same millisecond is in the order of the graph.
        order.sort_by_key(|i| {
            self.steps[*i]
                .ended_at
                .map(|at| (at, workflow.steps[*i].ancestors.len(), *i))
        });
        let views: Vec<StepView<'_>> = order
            .into_iter()
            .map(|i| StepView {
                name: &workflow.steps[i].name,
                status: self.steps[i].status,
                output: self.steps[i].output.as_deref().map_or(&Value::Null, Json::value),
                visible: ancestors.binary_search(&i).is_ok() && self.steps[i].status.is_terminal(),
            })
            .collect();
        f(&Scope {
            input: self.input.value(),
            run: &self.info,
            steps: &views,
        })
    }

    /// Output of the whole run: of the last steps of the plan (those that nothing depends on); one such step gives its
    /// output as it is, several give an object by name.
    pub(super) fn output(&self) -> Arc<Json> {
        let of_step = |step: usize| self.steps[step].output.clone().unwrap_or_default();
        let workflow = match &self.plan {
            Plan::Function(_) => return of_step(0),
            Plan::Workflow(w) => w,
        };
        let mut is_leaf = vec![true; workflow.steps.len()];
        for step in &workflow.steps {
            for dep in &step.deps {
                is_leaf[*dep] = false;
            }
        }
        let leaves: Vec<usize> = (0..is_leaf.len()).filter(|i| is_leaf[*i]).collect();
        match leaves.as_slice() {
            [one] => of_step(*one),
            several => {
                let completed = several
                    .iter()
                    .filter(|i| self.steps[**i].status == StepStatus::Completed);
                let named = completed.map(|i| (workflow.steps[*i].name.clone(), of_step(*i).value().clone()));
                Arc::new(Value::Object(named.collect()).into())
            }
        }
    }
}
