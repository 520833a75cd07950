//! Ownership of shards, as rows: taken by compare-and-set, kept by beats, never by a clock.

use tokio_postgres::types::Json;
use tokio_postgres::{Client, Row};
use tramline_core::ownership::{NodeRow, ShardRow};
use tramline_core::snapshot::Snapshot;
use uuid::Uuid;

use crate::discovery::parse_snapshot;
use crate::{Db, StoreError};

/// The epoch of a shard's first owner.
const FIRST_EPOCH: i64 = 1;

/// What a take answers of each shard.
const TAKEN: &str = "s.shard, s.epoch, s.low_xid::text, s.system_id, (select system_identifier from pg_control_system()), \
    pg_snapshot_xmax(pg_current_snapshot())::text, case when s.released_epoch = s.epoch - 1 then s.released::text end";

/// A shard that was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    pub shard: u16,
    pub epoch: i64,
    /// Transaction from which on unfinished runs must be scanned; `None` = all of them.
    pub low_xid: Option<u64>,
    /// Nothing is recorded of runs that are not visible here; `None` = nobody can say.
    pub untouched: Option<Snapshot>,
}

/// Channel on which nodes are told that shards are free.
pub const SHARDS_FREE: &str = "tramline:shards";
/// Channel on which nodes hear that a limit has changed; the schema's triggers send it.
pub const LIMITS_CHANGED: &str = "tramline:limits";

/// What a heartbeat says of one shard.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub shard: u16,
    pub epoch: i64,
    /// Below it no unfinished run is without a durable row that names it.
    pub low_xid: u64,
    /// Runs that are driven or in line.
    pub load: u64,
}

impl Mark {
    fn of((shard, epoch, low_xid): (u16, i64, u64)) -> Self {
        Self {
            shard,
            epoch,
            low_xid,
            load: 0,
        }
    }
}

/// How full a node is.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct NodeLoad {
    /// Runs that are driven, and how many may be.
    pub active: usize,
    pub active_max: usize,
    /// Runs that wait for one of them to end.
    pub in_line: usize,
    /// Calls that are out, how many may be, and those that wait for room.
    pub calls: usize,
    pub calls_max: usize,
    pub calls_waiting: usize,
    /// Functions that have as many calls out as they may, or whose host had no room, with calls that wait for it.
    pub full: Vec<String>,
}

/// What a node says with its heartbeat.
#[derive(Debug, Clone, Default)]
pub struct Beat {
    pub marks: Vec<Mark>,
    pub load: NodeLoad,
}

/// The connection that keeps ownership.
pub struct Keeper {
    client: Client,
    node: Uuid,
}

impl Keeper {
    /// Connects as a node and registers it.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect(
        db: &Db,
        node: Uuid,
        name: &str,
        version: &str,
        roles: &[String],
    ) -> Result<Self, StoreError> {
        let client = db.dedicated("ownership", "30s").await?;
        // Waiting longer than this for a shard row means that its owner's backend is stopped: try again later.
        client
            .batch_execute("set lock_timeout = '500ms'")
            .await
            .map_err(|e| StoreError::query("ownership settings", e))?;
        client
            .execute(
                "insert into tramline.nodes (node_id, name, version, roles) values ($1, $2, $3, $4)
                 on conflict (node_id) do update set seen_at = now()",
                &[&node, &name, &version, &roles],
            )
            .await
            .map_err(|e| StoreError::query("register node", e))?;
        Ok(Self { client, node })
    }

    /// Raises the beat of the node and of its shards, with what a successor needs to know, and returns the shards that
    /// were still held. `marks` are (shard, epoch, low-water mark).
    ///
    /// # Errors
    /// When the connection broke: ownership is then unknown, the fence decides.
    pub async fn beat(&self, marks: &[(u16, i64, u64)]) -> Result<Vec<u16>, StoreError> {
        let beat = Beat {
            marks: marks.iter().map(|m| Mark::of(*m)).collect(),
            load: NodeLoad::default(),
        };
        self.beat_with(&beat).await
    }

    /// The same, and how full the node and its shards are: for balancing, and for people who ask why a run waits.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn beat_with(&self, beat: &Beat) -> Result<Vec<u16>, StoreError> {
        let shards: Vec<i32> = beat.marks.iter().map(|m| i32::from(m.shard)).collect();
        let epochs: Vec<i64> = beat.marks.iter().map(|m| m.epoch).collect();
        let lows: Vec<String> = beat.marks.iter().map(|m| m.low_xid.to_string()).collect();
        let loads: Vec<i64> = beat
            .marks
            .iter()
            .map(|m| i64::try_from(m.load).unwrap_or(i64::MAX))
            .collect();
        let rows = self
            .client
            .query(
                "with me as (update tramline.nodes set beat = beat + 1, seen_at = now(), load = $6 where node_id = $1),
                      held as materialized (
                        select s.shard, m.low, m.load from tramline.shards s
                          join unnest($2::int[], $3::bigint[], $4::text[], $5::bigint[]) as m(shard, epoch, low, load)
                            on m.shard = s.shard and m.epoch = s.epoch
                         where s.owner = $1 order by s.shard for update of s)
                 update tramline.shards s set beat = s.beat + 1, low_xid = h.low::xid8, load = h.load,
                        system_id = (select system_identifier from pg_control_system())
                   from held h where h.shard = s.shard returning s.shard",
                &[&self.node, &shards, &epochs, &lows, &loads, &Json(&beat.load)],
            )
            .await
            .map_err(|e| StoreError::query("heartbeat", e))?;
        Ok(rows
            .iter()
            .filter_map(|r| u16::try_from(r.get::<_, i32>(0)).ok())
            .collect())
    }

    /// All shards and nodes as they are now, in one statement.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn observe(&self) -> Result<(Vec<ShardRow>, Vec<NodeRow>), StoreError> {
        // A node that has not been seen for a day is history.
        let rows = self
            .client
            .query(
                "select shard, owner, epoch, beat, load, false from tramline.shards
                 union all
                 select null, node_id, null, beat, null, 'engine' <> all (roles) from tramline.nodes
                  where seen_at > now() - interval '1 day' and roles && '{engine,leaving}'
                 order by 1",
                &[],
            )
            .await
            .map_err(|e| StoreError::query("observe", e))?;
        let (mut shards, mut nodes) = (Vec::new(), Vec::new());
        for r in &rows {
            match (r.get::<_, Option<i32>>(0), r.get::<_, Option<Uuid>>(1)) {
                (Some(shard), owner) => shards.push(ShardRow {
                    shard: u16::try_from(shard).unwrap_or_default(),
                    owner,
                    epoch: r.get(2),
                    beat: r.get(3),
                    load: u64::try_from(r.get::<_, i64>(4)).unwrap_or_default(),
                }),
                (None, Some(node)) => nodes.push(NodeRow {
                    node,
                    beat: r.get(3),
                    leaving: r.get(5),
                }),
                (None, None) => {}
            }
        }
        Ok((shards, nodes))
    }

    /// Says that this node takes no shards any more and has only calls left that are out.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn retire(&self) -> Result<(), StoreError> {
        self.client
            .execute(
                "update tramline.nodes set roles = array_replace(roles, 'engine', 'leaving') where node_id = $1",
                &[&self.node],
            )
            .await
            .map_err(|e| StoreError::query("retire", e))?;
        Ok(())
    }

    /// Tells the other nodes that shards are free.
    ///
    /// # Errors
    /// When the connection broke: they find out by themselves.
    pub async fn tell_free(&self) -> Result<(), StoreError> {
        self.client
            .execute("select pg_notify($1, '')", &[&SHARDS_FREE])
            .await
            .map_err(|e| StoreError::query("tell free shards", e))?;
        Ok(())
    }

    /// Takes a shard if nothing changed since it was observed. The epoch is committed before anything of the shard is
    /// read: a read in the same statement would see the time before the old owner's last flush.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn take(&self, shard: u16, epoch: i64, beat: i64) -> Result<Option<Taken>, StoreError> {
        let sql = format!(
            "update tramline.shards s set owner = $2, epoch = s.epoch + 1, beat = 0
              where s.shard = $1 and s.epoch = $3 and s.beat = $4 returning {TAKEN}"
        );
        let row = self
            .client
            .query_opt(&sql, &[&i32::from(shard), &self.node, &epoch, &beat])
            .await
            .map_err(|e| StoreError::query("take shard", e));
        match row {
            // A backend of the old owner holds the row (it is stopped, or in its last flush): another time.
            Err(error) if error.sqlstate() == Some("55P03") => Ok(None),
            row => row?.as_ref().map(taken).transpose(),
        }
    }

    /// The same for many shards, as (shard, epoch, beat), in one statement. It waits for no lock: a shard whose row somebody
    /// holds is not among the answers, and is taken by itself.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn take_many(&self, sighted: &[(u16, i64, i64)]) -> Result<Vec<Taken>, StoreError> {
        let shards: Vec<i32> = sighted.iter().map(|s| i32::from(s.0)).collect();
        let epochs: Vec<i64> = sighted.iter().map(|s| s.1).collect();
        let beats: Vec<i64> = sighted.iter().map(|s| s.2).collect();
        let sql = format!(
            "with free as materialized (
               select s.shard from tramline.shards s join unnest($1::int[], $3::bigint[], $4::bigint[]) as m(shard, epoch, beat)
                   on m.shard = s.shard and m.epoch = s.epoch and m.beat = s.beat
                order by s.shard for update of s skip locked)
             update tramline.shards s set owner = $2, epoch = s.epoch + 1, beat = 0 from free where free.shard = s.shard returning {TAKEN}"
        );
        let rows = self
            .client
            .query(&sql, &[&shards, &self.node, &epochs, &beats])
            .await
            .map_err(|e| StoreError::query("take shards", e))?;
        rows.iter().map(taken).collect()
    }

    /// Gives shards up, so that another node may take them at once.
    ///
    /// # Errors
    /// When the connection broke: they are then taken after a lease.
    pub async fn release(&self, shards: &[(u16, i64)]) -> Result<(), StoreError> {
        let ids: Vec<i32> = shards.iter().map(|s| i32::from(s.0)).collect();
        let epochs: Vec<i64> = shards.iter().map(|s| s.1).collect();
        self.client
            .execute(
                "select tramline.release_shards($1, $2, $3)",
                &[&self.node, &ids, &epochs],
            )
            .await
            .map_err(|e| StoreError::query("release shards", e))?;
        Ok(())
    }

    /// Takes the node off the list: it stopped in order.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn leave(&self) -> Result<(), StoreError> {
        self.client
            .execute("delete from tramline.nodes where node_id = $1", &[&self.node])
            .await
            .map_err(|e| StoreError::query("deregister node", e))?;
        Ok(())
    }
}

/// Reads [`TAKEN`].
fn taken(row: &Row) -> Result<Taken, StoreError> {
    let low: Option<u64> = row.get::<_, Option<String>>(2).and_then(|t| t.parse().ok());
    let same_cluster = row.get::<_, Option<i64>>(3) == Some(row.get::<_, i64>(4));
    let now_xmax: u64 = row.get::<_, String>(5).parse().unwrap_or(u64::MAX);
    // A mark of another cluster, or of a future that was lost, hides runs: then everything unfinished is scanned.
    let is_valid = |xid: u64| same_cluster && xid <= now_xmax;
    let epoch = row.get(1);
    let released = row
        .get::<_, Option<&str>>(6)
        .map(parse_snapshot)
        .transpose()?
        .filter(|released| is_valid(released.xmax));
    // The first owner of all: before it there was nobody who could record anything. (Transaction ids of data begin at 3.)
    let nothing = (epoch == FIRST_EPOCH).then_some(Snapshot {
        xmin: 1,
        xmax: 1,
        in_progress: Vec::new(),
    });
    Ok(Taken {
        shard: u16::try_from(row.get::<_, i32>(0)).unwrap_or_default(),
        epoch,
        low_xid: low.filter(|low| is_valid(*low)),
        untouched: released.or(nothing),
    })
}
