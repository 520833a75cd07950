//! Results of calls for owners on other nodes, as commands.

use serde_json::Value;
use uuid::Uuid;

use crate::rows::Jsonb;
use crate::{Db, StoreError};

/// The verb of such a command.
pub const CALL_ENDED: &str = "call_ended";

/// How a call ended that was made before its shard went to another node.
#[derive(Debug, Clone)]
pub struct CallResult {
    /// Made by the caller: sent again it is the same.
    pub command_id: Uuid,
    pub run_id: Uuid,
    pub generation: u32,
    /// Step, attempt, times and outcome, as the owner reads them.
    pub args: Value,
}

/// Leaves results for the owners of the runs. May be repeated.
///
/// # Errors
/// When the database cannot be reached.
pub async fn deliver(db: &Db, results: &[CallResult]) -> Result<(), StoreError> {
    let client = db.get().await?;
    let ids: Vec<Uuid> = results.iter().map(|r| r.command_id).collect();
    let runs: Vec<Uuid> = results.iter().map(|r| r.run_id).collect();
    let generations: Vec<i32> = results
        .iter()
        .map(|r| i32::try_from(r.generation).unwrap_or(i32::MAX))
        .collect();
    let args: Vec<Jsonb> = results.iter().map(|r| Jsonb::of(&r.args)).collect();
    client
        .execute(
            "insert into tramline.commands (shard, command_id, subject_id, generation, verb, args)
             select tramline.shard_of(u.run_id), u.command_id, u.run_id::text, u.generation, $5, u.args
               from unnest($1::uuid[], $2::uuid[], $3::int[], $4::jsonb[]) as u(command_id, run_id, generation, args)
             on conflict do nothing",
            &[&ids, &runs, &generations, &args, &CALL_ENDED],
        )
        .await
        .map_err(|e| StoreError::query("deliver results", e))?;
    Ok(())
}
