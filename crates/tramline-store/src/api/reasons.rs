//! Why something does not move, as far as the database knows.

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{Db, StoreError};

/// One reason.
#[derive(Debug, Clone)]
pub struct Reason {
    /// A stable word, such as `timer_overdue` or `queue_paused`.
    pub code: String,
    pub since: Option<Timestamp>,
    /// For people.
    pub sentence: String,
    pub detail: Value,
}

/// Why a run does not move, the most important reason first.
///
/// # Errors
/// Refused with `TL404` when there is no such run.
pub async fn why_run(db: &Db, run_id: Uuid) -> Result<Vec<Reason>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select code, since, sentence, detail from ops.why($1)",
            &[&run_id],
        )
        .await
        .map_err(|e| StoreError::query("why a run does not move", e))?;
    Ok(rows.iter().map(reason).collect())
}

/// Why the runs of a queue do not move.
///
/// # Errors
/// Refused with `TL404` when there is no such queue and no run in it.
pub async fn why_queue(db: &Db, queue: &str) -> Result<Vec<Reason>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select code, since, sentence, detail from ops.why_queue($1)",
            &[&queue],
        )
        .await
        .map_err(|e| StoreError::query("why a queue does not move", e))?;
    Ok(rows.iter().map(reason).collect())
}

fn reason(r: &Row) -> Reason {
    Reason {
        code: r.get(0),
        since: r.get(1),
        sentence: r.get(2),
        detail: r.get::<_, Option<Value>>(3).unwrap_or_default(),
    }
}
