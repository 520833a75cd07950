//! What a new owner reads of its shards: first how much there is, then what is unfinished, parked and asked for. All of it may
//! be asked for many shards at once.

use std::collections::HashMap;

use jiff::Timestamp;
use tramline_core::Millis;
use tramline_core::snapshot::Snapshot;

use super::{
    Command, Cursor, Header, Reader, columns, command, header, parse_snapshot, parse_xid, with_body,
};
use crate::StoreError;
use crate::limits::LimitState;
use crate::rows::millis;

/// Rows of one place up to which a shard is read together with others: 64 shards with as many in each of their places are read
/// in some tens of milliseconds.
pub const FEW: i64 = 32;

/// A place that may hold something for the new owner of its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Runs of a priority class from the low-water mark on, whatever became of them.
    Runs(u8),
    /// Rows of `parked`.
    Parked,
    Commands,
    /// Claims of limit keys, and states of their rates.
    Limits,
}

/// How much there was at each place, as of a snapshot.
#[derive(Debug)]
pub struct Overview {
    pub snapshot: Snapshot,
    /// The database's clock.
    pub now: Millis,
    held: HashMap<(u16, Place), i64>,
}

impl Overview {
    /// Whether there was anything at a place of a shard.
    pub fn has(&self, shard: u16, place: Place) -> bool {
        self.held.contains_key(&(shard, place))
    }

    /// Whether a shard held [`FEW`] rows at most at each of its places.
    pub fn is_small(&self, shard: u16) -> bool {
        !self
            .held
            .iter()
            .any(|((of, _), rows)| *of == shard && *rows > FEW)
    }
}

impl Reader {
    /// Looks how much there is in shards from their low-water marks on (`None` = from the beginning), with the snapshot and the
    /// clock of the same statement.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn overview(&self, marks: &[(u16, Option<u64>)]) -> Result<Overview, StoreError> {
        let shards: Vec<i32> = marks.iter().map(|mark| i32::from(mark.0)).collect();
        let lows: Vec<String> = marks.iter().map(|mark| mark.1.unwrap_or(0).to_string()).collect();
        let rows = self
            .client
            .query(&self.overview, &[&shards, &lows, &(FEW + 1)])
            .await
            .map_err(|e| StoreError::query("overview of shards", e))?;
        let first = rows.first().ok_or_else(|| StoreError::Decode {
            what: "an overview",
            reason: "no row".into(),
        })?;
        let held = rows.iter().filter_map(|row| {
            let shard = u16::try_from(row.get::<_, Option<i32>>(2)?).ok()?;
            let place = match row.get::<_, i16>(3) {
                4 => Place::Parked,
                5 => Place::Commands,
                6 => Place::Limits,
                class => Place::Runs(u8::try_from(class).ok()?),
            };
            Some(((shard, place), row.get(4)))
        });
        Ok(Overview {
            snapshot: parse_snapshot(first.get(0))?,
            now: millis(first.get::<_, Timestamp>(1)),
            held: held.collect(),
        })
    }

    /// One page of so many unfinished runs for every cursor: what a new owner scans from the low-water marks on. Of runs that are not
    /// visible in the snapshot of their shard in `untouched` nothing is recorded, so nothing is looked up. With `bodies` small
    /// ones are read, too.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn unfinished(
        &self,
        cursors: &[Cursor],
        untouched: &HashMap<u16, Snapshot>,
        page: i64,
        bodies: bool,
    ) -> Result<Vec<Header>, StoreError> {
        let (shards, priorities, xids, ids) = columns(cursors);
        let untouched: Vec<Option<String>> = cursors
            .iter()
            .map(|cursor| untouched.get(&cursor.shard).map(Snapshot::to_string))
            .collect();
        let rows = self
            .client
            .query(
                &self.unfinished,
                &[&shards, &priorities, &xids, &ids, &untouched, &page, &bodies],
            )
            .await
            .map_err(|e| StoreError::query("discovery unfinished", e))?;
        Ok(rows.iter().map(|r| with_body(r, 0)).collect())
    }

    /// The low-water marks of shards as they are stored; none of those that may be read from no mark. A mark that was committed
    /// is safe after a crash of the server; one that is only remembered is not, because transaction ids beyond the last commit
    /// are given out again.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn stored_marks(&self, shards: &[u16]) -> Result<HashMap<u16, u64>, StoreError> {
        let rows = self
            .client
            .query(
                "select shard, low_xid::text from tramline.shards
                  where shard = any ($1) and system_id = (select system_identifier from pg_control_system())
                    and low_xid <= pg_snapshot_xmax(pg_current_snapshot())",
                &[&numbers(shards)],
            )
            .await
            .map_err(|e| StoreError::query("stored marks", e))?;
        rows.iter()
            .map(|r| {
                let shard = u16::try_from(r.get::<_, i32>(0)).unwrap_or_default();
                Ok((shard, parse_xid(r.get(1))?))
            })
            .collect()
    }

    /// What is recorded about the limit keys of shards, by shard.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn limit_states(&self, shards: &[u16]) -> Result<HashMap<u16, LimitState>, StoreError> {
        crate::limits::states(&self.client, &numbers(shards)).await
    }

    /// Headers of the runs that a `parked` row of shards names: the low-water mark may have passed them, or their priority is
    /// not that of their row any more.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn parked(&self, shards: &[u16]) -> Result<Vec<Header>, StoreError> {
        let rows = self
            .client
            .query(
                "select r.run_id, r.shard, coalesce((select m.priority from tramline.all_marks m where m.run_id = r.run_id and m.shard = r.shard
                          and m.priority is not null order by m.generation desc, m.seq desc limit 1), r.priority),
                        r.scheduled_at, r.enqueued_xid, r.is_foreign,
                        tramline.gate_of(r.queue, r.limit_key, r.concurrency_key)
                   from tramline.parked p join tramline.all_runs r on r.run_id = p.run_id and r.shard = p.shard where p.shard = any ($1)",
                &[&numbers(shards)],
            )
            .await
            .map_err(|e| StoreError::query("parked runs", e))?;
        Ok(rows.iter().map(|r| header(r, 0)).collect())
    }

    /// All open commands of shards, in the order in which they were asked for: what a new owner begins with.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn open_commands(&self, shards: &[u16]) -> Result<Vec<Command>, StoreError> {
        let rows = self
            .client
            .query(
                "select command_id, shard, subject_kind, subject_id, generation, verb, args, actor, reason, xid::text
                   from tramline.commands where shard = any ($1) order by commands.xid, command_id",
                &[&numbers(shards)],
            )
            .await
            .map_err(|e| StoreError::query("open commands", e))?;
        rows.iter().map(command).collect()
    }
}

fn numbers(shards: &[u16]) -> Vec<i32> {
    shards.iter().map(|shard| i32::from(*shard)).collect()
}
