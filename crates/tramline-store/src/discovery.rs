//! Finding work by the difference of two snapshots: nothing is locked, updated or deleted to find a run, and a run whose
//! transaction commits late is found when it commits. All reads are autocommit statements of one connection, because a
//! snapshot is valid for one server start only: after a restart of Postgres transaction ids can be used again.

mod rest;
mod scan;
mod sql;
mod sweep;

pub use rest::{Glance, channel};
pub use scan::{FEW, Overview, Place};
pub use sql::{SETTINGS, Sql};
pub use sweep::Swept;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::{Client, Row, Statement};
use tramline_core::Millis;
use tramline_core::snapshot::Snapshot;
use uuid::Uuid;

use crate::rows::{JsonText, Xid, millis, millis_up};
use crate::runs::{Body, Known, body_of};
use crate::{Db, NIL, StoreError};

/// Rows of one page of one shard and class: large enough that a backlog is read at full speed, small enough that an
/// urgent run waits for milliseconds only.
pub const PAGE: i64 = 500;
/// Rows of the later pages of a shard that is scanned by itself: setting a page's statement up takes as long as reading fifty rows.
pub const SCAN_PAGE: i64 = 2_000;

/// A discovered run, without its input: small, so that a large backlog fits into memory.
#[derive(Debug, Clone)]
pub struct Header {
    pub run_id: Uuid,
    pub shard: u16,
    /// 0 (urgent) to 3 (whenever).
    pub priority: u8,
    pub scheduled_at: Option<Millis>,
    /// The transaction that enqueued it.
    pub xid: u64,
    /// Lives in the `*_foreign` siblings.
    pub foreign: bool,
    /// What may keep it from starting; most runs have nothing.
    pub gate: Option<Box<Gate>>,
    /// Its row, where that was read with the header: for runs that start at once.
    pub body: Option<Box<Body>>,
}

/// What a run may have to wait for besides a free place on its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gate {
    /// Empty for the default queue.
    pub queue: String,
    /// The key it is limited by.
    pub limit_key: Option<String>,
    /// Its `concurrency_key`: the group that it shares the places of its queue with others by.
    pub group: Option<String>,
}

impl Gate {
    pub(crate) fn of(columns: Option<Vec<Option<String>>>) -> Option<Box<Self>> {
        let mut columns = columns?.into_iter();
        let mut next = || columns.next().flatten();
        let queue = next().filter(|queue| queue != "default").unwrap_or_default();
        Some(Box::new(Self {
            queue,
            limit_key: next(),
            group: next(),
        }))
    }
}

/// Where reading goes on in one shard and class.
#[derive(Debug, Clone)]
pub struct Cursor {
    pub shard: u16,
    pub priority: u8,
    /// Position: the last row read, or `(xmax of the last snapshot, nil)`.
    pub xid: u64,
    pub run_id: Uuid,
    /// The end of a tick that is read in pages; `None` = the snapshot of this statement. A scan has none.
    pub upto: Option<Snapshot>,
}

/// What one poll reads.
#[derive(Debug)]
pub struct Poll<'a> {
    pub cursors: &'a [Cursor],
    /// Nothing is read when this is still the present snapshot.
    pub unless: Option<&'a Snapshot>,
    /// Only ids from here on are looked at: the partitions of the last days.
    pub bound: Uuid,
    /// Whether small bodies are read, too.
    pub bodies: bool,
    /// Transactions whose runs are left out, because whoever asks has all of them. Each row is compared with each of these.
    pub known: &'a [u64],
}

impl<'a> Poll<'a> {
    /// Headers alone, of all that is new.
    pub fn of(cursors: &'a [Cursor], bound: Uuid) -> Self {
        Self {
            cursors,
            unless: None,
            bound,
            bodies: false,
            known: &[],
        }
    }
}

/// The answer of one poll.
#[derive(Debug)]
pub struct Page {
    pub snapshot: Snapshot,
    /// The database's clock.
    pub now: Millis,
    pub headers: Vec<Header>,
}

/// A request to the owner of a run.
#[derive(Debug, Clone)]
pub struct Command {
    pub command_id: Uuid,
    pub shard: u16,
    pub subject_kind: String,
    pub subject_id: String,
    pub generation: Option<i32>,
    pub verb: String,
    pub args: Option<Value>,
    pub actor: Option<String>,
    pub reason: Option<String>,
    pub xid: u64,
}

/// The connection that discovers.
pub struct Reader {
    client: Client,
    poll: Statement,
    glance: Statement,
    late: Statement,
    commands: Statement,
    overview: Statement,
    unfinished: Statement,
    unnamed: Statement,
    named: Statement,
}

impl Reader {
    /// Connects and prepares.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect(db: &Db) -> Result<Self, StoreError> {
        Self::listening(db, |_| {}).await
    }

    /// The same, with what is to happen when the connection is told something: with the channel's name.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn listening(db: &Db, told: impl Fn(&str) + Send + 'static) -> Result<Self, StoreError> {
        let client = db.listening("discovery", "60s", told).await?;
        client
            .batch_execute(SETTINGS)
            .await
            .map_err(|e| StoreError::query("discovery settings", e))?;
        let sql = Sql::default();
        let prepare = |what: &'static str, sql: String| {
            let client = &client;
            async move { client.prepare(&sql).await.map_err(|e| StoreError::query(what, e)) }
        };
        // All are sent before the first is answered: a node that starts waits for one round trip.
        let (poll, glance, late, commands, overview, unfinished, unnamed, named) = tokio::try_join!(
            prepare("discovery poll", sql.poll),
            prepare("discovery glance", sql.glance),
            prepare("discovery late", sql.late),
            prepare("discovery commands", sql.commands),
            prepare("discovery overview", sql.overview),
            prepare("discovery unfinished", sql.unfinished),
            prepare("discovery sweep", sql.unnamed),
            prepare("discovery of named runs", sql.named),
        )?;
        let reader = Self {
            client,
            poll,
            glance,
            late,
            commands,
            overview,
            unfinished,
            unnamed,
            named,
        };
        reader.plan().await?;
        Ok(reader)
    }

    /// Has the server plan what is read first of shards that are taken, while there are none yet: planning takes longer than
    /// reading, since every partition has its part in it.
    async fn plan(&self) -> Result<(), StoreError> {
        let nothing = std::collections::HashMap::new();
        tokio::try_join!(self.overview(&[]), self.unfinished(&[], &nothing, PAGE, true))?;
        Ok(())
    }

    /// The present snapshot and clock.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn snapshot(&self) -> Result<(Snapshot, Millis), StoreError> {
        let row = self
            .client
            .query_one("select pg_current_snapshot()::text, clock_timestamp()", &[])
            .await
            .map_err(|e| StoreError::query("snapshot", e))?;
        Ok((parse_snapshot(row.get(0))?, millis(row.get::<_, Timestamp>(1))))
    }

    /// One page for every cursor, with the snapshot that was read in the same statement.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn poll(&self, poll: Poll<'_>) -> Result<Page, StoreError> {
        let (shards, priorities, xids, ids) = columns(poll.cursors);
        let upto: Vec<Option<String>> = poll
            .cursors
            .iter()
            .map(|c| c.upto.as_ref().map(Snapshot::to_string))
            .collect();
        let unless = poll.unless.map(Snapshot::to_string).unwrap_or_default();
        let known: Vec<String> = poll.known.iter().map(u64::to_string).collect();
        let rows = self
            .client
            .query(
                &self.poll,
                &[
                    &shards,
                    &priorities,
                    &xids,
                    &ids,
                    &upto,
                    &poll.bound,
                    &PAGE,
                    &unless,
                    &poll.bodies,
                    &known,
                ],
            )
            .await
            .map_err(|e| StoreError::query("discovery poll", e))?;
        let first = rows.first().ok_or_else(|| StoreError::Decode {
            what: "a poll",
            reason: "no row".into(),
        })?;
        let snapshot = parse_snapshot(first.get(0))?;
        let now = millis(first.get::<_, Timestamp>(1));
        let headers = rows
            .iter()
            .filter(|r| r.get::<_, Option<Uuid>>(2).is_some())
            .map(|r| with_body(r, 2))
            .collect();
        Ok(Page {
            snapshot,
            now,
            headers,
        })
    }

    /// Headers with bodies of native runs that somebody has just enqueued. Says nothing about what was recorded of them: only
    /// for runs whose transaction no completed tick has seen.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn named(&self, ids: &[Uuid]) -> Result<Vec<Header>, StoreError> {
        let (Some(low), Some(high)) = (ids.iter().min(), ids.iter().max()) else {
            return Ok(Vec::new());
        };
        let rows = self
            .client
            .query(&self.named, &[&ids, low, high])
            .await
            .map_err(|e| StoreError::query("discovery of named runs", e))?;
        Ok(rows.iter().map(|r| with_body(r, 0)).collect())
    }

    /// One page of runs enqueued by exactly these transactions, which were in progress at the last tick.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn late(&self, cursors: &[Cursor], bound: Uuid) -> Result<Vec<Header>, StoreError> {
        let (shards, priorities, xids, ids) = columns(cursors);
        let unused: Vec<Option<String>> = vec![None; cursors.len()];
        let rows = self
            .client
            .query(
                &self.late,
                &[&shards, &priorities, &xids, &ids, &unused, &bound, &PAGE],
            )
            .await
            .map_err(|e| StoreError::query("discovery late", e))?;
        Ok(rows.iter().map(|r| header(r, 0)).collect())
    }

    /// Commands that became visible between two snapshots.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn commands(
        &self,
        shards: &[u16],
        old: &Snapshot,
        new: &Snapshot,
    ) -> Result<Vec<Command>, StoreError> {
        let shards: Vec<i32> = shards.iter().map(|s| i32::from(*s)).collect();
        let rows = self
            .client
            .query(&self.commands, &[&shards, &old.to_string(), &new.to_string()])
            .await
            .map_err(|e| StoreError::query("discovery commands", e))?;
        rows.iter().map(command).collect()
    }
}

impl Cursor {
    /// The start of a scan at a low-water mark; `None` = at the beginning.
    pub fn from_mark(shard: u16, priority: u8, low_xid: Option<u64>) -> Self {
        // A position is exclusive, and the mark itself must be read.
        let (xid, run_id) = low_xid.map_or((0, NIL), |low| (low.saturating_sub(1), Uuid::max()));
        Self {
            shard,
            priority,
            xid,
            run_id,
            upto: None,
        }
    }

    /// The start of a tick after a snapshot.
    pub fn after(shard: u16, priority: u8, last: &Snapshot) -> Self {
        Self {
            shard,
            priority,
            xid: last.xmax,
            run_id: NIL,
            upto: None,
        }
    }
}

fn columns(cursors: &[Cursor]) -> (Vec<i32>, Vec<i16>, Vec<String>, Vec<Uuid>) {
    (
        cursors.iter().map(|c| i32::from(c.shard)).collect(),
        cursors.iter().map(|c| i16::from(c.priority)).collect(),
        cursors.iter().map(|c| c.xid.to_string()).collect(),
        cursors.iter().map(|c| c.run_id).collect(),
    )
}

fn header(row: &Row, at: usize) -> Header {
    Header {
        run_id: row.get(at),
        shard: u16::try_from(row.get::<_, i32>(at + 1)).unwrap_or_default(),
        priority: u8::try_from(row.get::<_, i16>(at + 2)).unwrap_or_default(),
        scheduled_at: row.get::<_, Option<Timestamp>>(at + 3).map(millis_up),
        xid: row.get::<_, Xid>(at + 4).0,
        foreign: row.get(at + 5),
        gate: Gate::of(row.get(at + 6)),
        body: None,
    }
}

/// A header and, unless its columns are null, the body after it.
fn with_body(row: &Row, at: usize) -> Header {
    let header = header(row, at);
    let body = row.get::<_, Option<&str>>(at + 7).map(|_| {
        let known = Known {
            run_id: header.run_id,
            scheduled_at: header.scheduled_at,
            gate: header.gate.clone(),
            priority: header.priority,
            foreign: header.foreign,
        };
        Box::new(body_of(row, at + 7, known))
    });
    Header { body, ..header }
}

fn command(row: &Row) -> Result<Command, StoreError> {
    // Arguments that nobody can read are no reason to stop reading: the request is refused like any that is not known.
    let args = row.get::<_, Option<JsonText>>(6).map(|args| args.read());
    let verb = match args {
        Some(Err(_)) => "unreadable".to_owned(),
        _ => row.get(5),
    };
    Ok(Command {
        command_id: row.get(0),
        shard: u16::try_from(row.get::<_, i32>(1)).unwrap_or_default(),
        subject_kind: row.get(2),
        subject_id: row.get(3),
        generation: row.get(4),
        verb,
        args: args.and_then(Result::ok),
        actor: row.get(7),
        reason: row.get(8),
        xid: parse_xid(row.get(9))?,
    })
}

fn parse_xid(text: &str) -> Result<u64, StoreError> {
    text.parse().map_err(|_| StoreError::Decode {
        what: "a transaction id",
        reason: text.to_owned(),
    })
}

/// Reads a snapshot as the database prints it.
pub(crate) fn parse_snapshot(text: &str) -> Result<Snapshot, StoreError> {
    text.parse().map_err(|e| StoreError::Decode {
        what: "a snapshot",
        reason: format!("{e}"),
    })
}
