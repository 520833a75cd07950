//! Queues with what is in them.

use serde_json::Value;
use tramline_gateway::control::{Actor, ControlError, Problem, Queue, QueueRate, SetQueue};
use tramline_store::StoreError;
use tramline_store::limits::{self, QueueRow};

use super::{NodeControl, convert};

impl NodeControl {
    pub(super) async fn queues(&self, name: Option<String>) -> Result<Vec<Queue>, ControlError> {
        let rows = limits::queues(self.db(), name.as_deref())
            .await
            .map_err(convert::error)?;
        match name {
            Some(name) if rows.is_empty() => Err(ControlError::NotFound { what: "queue", name }),
            _ => Ok(rows.into_iter().map(queue).collect()),
        }
    }

    pub(super) async fn store_queue(
        &self,
        name: String,
        settings: Value,
        how: SetQueue,
        reason: Option<String>,
        actor: Actor,
    ) -> Result<Queue, ControlError> {
        let (create, by) = (how == SetQueue::Create, actor.into_name());
        let stored = limits::set_queue(self.db(), &name, &settings, create, &by, reason.as_deref());
        if let Err(error) = stored.await {
            return Err(refused(&name, error));
        }
        let mut queues = self.queues(Some(name.clone())).await?;
        queues.pop().ok_or(ControlError::NotFound { what: "queue", name })
    }
}

fn refused(name: &str, error: StoreError) -> ControlError {
    match error {
        StoreError::Refused { code, message, .. } if code == "TL400" => ControlError::InvalidInput {
            missing: Vec::new(),
            problems: vec![Problem {
                path: format!("queue {name}"),
                message,
            }],
        },
        StoreError::Refused { code, .. } if code == "TL404" => ControlError::NotFound {
            what: "queue",
            name: name.to_owned(),
        },
        error => convert::error(error),
    }
}

fn queue(row: QueueRow) -> Queue {
    let rate = row
        .rate_count
        .zip(row.rate_per_ms)
        .map(|(count, per_ms)| QueueRate {
            count,
            per_ms,
            burst: row.rate_burst.unwrap_or(count),
        });
    Queue {
        name: row.name,
        claims_max: row.claims_max.filter(|_| row.mode == "pull"),
        mode: row.mode,
        paused: row.paused,
        concurrency: row.concurrency,
        rate,
        fifo: row.fifo,
        description: row.description,
        waiting: row.waiting,
        running: row.running,
    }
}
