//! What the safety net below discovery reads.

use uuid::Uuid;

use super::{Header, PAGE, Reader, header};
use crate::StoreError;

/// What a look of the sweep found.
#[derive(Debug)]
pub struct Swept {
    pub headers: Vec<Header>,
    /// Where the next page begins; `None` = there is none.
    pub next: Option<(u64, Uuid)>,
}

impl Reader {
    /// Looks at one page of runs after a position, enqueued before a transaction that every tick has passed. Those that have
    /// not ended and that no timer and no parked row names must be known to the owner: the sweep hands them over.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn unnamed(
        &self,
        shard: u16,
        priority: u8,
        xid: u64,
        after: Uuid,
        before: u64,
    ) -> Result<Swept, StoreError> {
        let (shard, priority) = (i32::from(shard), i16::from(priority));
        let rows = self
            .client
            .query(
                &self.unnamed,
                &[
                    &shard,
                    &priority,
                    &xid.to_string(),
                    &after,
                    &PAGE,
                    &before.to_string(),
                ],
            )
            .await
            .map_err(|e| StoreError::query("discovery sweep", e))?;
        let last = rows.last().map(|r| header(r, 0));
        Ok(Swept {
            next: last
                .filter(|_| rows.len() as i64 >= PAGE)
                .map(|h| (h.xid, h.run_id)),
            headers: rows
                .iter()
                .filter(|r| r.get::<_, bool>(7))
                .map(|r| header(r, 0))
                .collect(),
        })
    }
}
