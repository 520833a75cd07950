//! Resting: an owner with nothing to do asks to be called instead of looking.
//!
//! While it rests it holds a session lock, and one for each of its shards; whoever enqueues tries to share one of these until its transaction
//! ends, and sends a NOTIFY only when it cannot. So there is no NOTIFY at all under load (commits with one queue up behind each other, over the
//! whole database), and none is missed: an owner cannot begin to rest while somebody who saw it awake has not committed.

use jiff::Timestamp;
use tramline_core::Millis;
use tramline_core::snapshot::Snapshot;
use uuid::Uuid;

use super::{Reader, parse_snapshot};
use crate::StoreError;
use crate::rows::millis;
use crate::shards::{LIMITS_CHANGED, SHARDS_FREE};
use crate::tidy::Changes;

/// First half of the key of an owner's lock; the second is the hash of the owner.
const OWNER_CLASS: i32 = 0x7472_616d;
/// First half of the key of a shard's lock; the second is the shard. For those who would have to look its owner up.
const SHARD_CLASS: i32 = 0x7472_616e;

/// What an owner that rests looks at.
#[derive(Debug)]
pub struct Glance {
    /// There is nothing to be read while it stays the same.
    pub snapshot: Snapshot,
    /// The database's clock.
    pub now: Millis,
    /// What maintenance would ask for by itself.
    pub changes: Changes,
}

impl Reader {
    /// Looks whether anything has been committed, and what of it concerns maintenance: all that an idle node asks for.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn glance(&self) -> Result<Glance, StoreError> {
        let row = self
            .client
            .query_one(&self.glance, &[])
            .await
            .map_err(|e| StoreError::query("discovery glance", e))?;
        Ok(Glance {
            snapshot: parse_snapshot(row.get(0))?,
            now: millis(row.get::<_, Timestamp>(1)),
            changes: Changes::of(&row, 2),
        })
    }

    /// Lets this connection be told about work for this owner, free shards and changed limits.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn listen(&self, owner: Uuid) -> Result<(), StoreError> {
        self.client
            .batch_execute(&format!(
                "listen \"{}\"; listen \"{SHARDS_FREE}\"; listen \"{LIMITS_CHANGED}\"",
                channel(owner)
            ))
            .await
            .map_err(|e| StoreError::query("listen", e))
    }

    /// Begins to rest; false while a transaction is open that saw this owner awake, or while somebody else still holds the lock of a
    /// shard. Look once more after it: what was committed before is told by nobody. A rest ends before the shards change.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn rest(&self, owner: Uuid) -> Result<bool, StoreError> {
        let row = self
            .client
            .query_one(
                "select pg_try_advisory_lock($1, uuid_hash($2))
                    and (select coalesce(bool_and(pg_try_advisory_lock($3, s.shard)), true) from tramline.shards s where s.owner = $2)",
                &[&OWNER_CLASS, &owner, &SHARD_CLASS],
            )
            .await
            .map_err(|e| StoreError::query("rest", e))?;
        let rests: bool = row.get(0);
        if !rests {
            self.stir().await?;
        }
        Ok(rests)
    }

    /// Ends it: from now on nobody need call.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn stir(&self) -> Result<(), StoreError> {
        // This connection holds no other locks.
        self.client
            .execute("select pg_advisory_unlock_all()", &[])
            .await
            .map_err(|e| StoreError::query("stir", e))?;
        Ok(())
    }
}

/// Where an owner is called.
pub fn channel(owner: Uuid) -> String {
    format!("tramline:{owner}")
}
