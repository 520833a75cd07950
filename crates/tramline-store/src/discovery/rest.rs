//! Resting: an owner with nothing to do asks to be called instead of looking.
//!
//! While it rests it holds a session lock; whoever enqueues tries to share that lock until its transaction ends, and sends a
//! NOTIFY only when it cannot. So there is no NOTIFY at all under load (commits with one queue up behind each other, over the
//! whole database), and none is missed: an owner cannot begin to rest while somebody who saw it awake has not committed.

use uuid::Uuid;

use super::Reader;
use crate::StoreError;
use crate::shards::SHARDS_FREE;

/// First half of the lock's key; the second is the hash of the owner.
const CLASS: i32 = 0x7472_616d;

impl Reader {
    /// Lets this connection be told about work for this owner, and about free shards.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn listen(&self, owner: Uuid) -> Result<(), StoreError> {
        self.client
            .batch_execute(&format!(
                "listen \"{}\"; listen \"{SHARDS_FREE}\"",
                channel(owner)
            ))
            .await
            .map_err(|e| StoreError::query("listen", e))
    }

    /// Begins to rest; false while a transaction is open that saw this owner awake. Look once more after it: what was
    /// committed before is told by nobody.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn rest(&self, owner: Uuid) -> Result<bool, StoreError> {
        let row = self
            .client
            .query_one(
                "select pg_try_advisory_lock($1, uuid_hash($2))",
                &[&CLASS, &owner],
            )
            .await
            .map_err(|e| StoreError::query("rest", e))?;
        Ok(row.get(0))
    }

    /// Ends it: from now on nobody need call.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn stir(&self, owner: Uuid) -> Result<(), StoreError> {
        self.client
            .execute("select pg_advisory_unlock($1, uuid_hash($2))", &[&CLASS, &owner])
            .await
            .map_err(|e| StoreError::query("stir", e))?;
        Ok(())
    }
}

/// Where an owner is called.
pub fn channel(owner: Uuid) -> String {
    format!("tramline:{owner}")
}
