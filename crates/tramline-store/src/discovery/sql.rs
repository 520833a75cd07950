//! The statements of discovery.

use crate::runs::BODY;
use crate::tidy::CHANGES;

/// Settings of the connection that discovers. Index ranges only: the table is partitioned and may be huge, so no plan but
/// the index scan is ever right here.
pub const SETTINGS: &str = "set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; \
    set enable_mergejoin = off; set plan_cache_mode = force_generic_plan";

const HEADER: &str = "r.run_id, r.shard, r.priority, r.scheduled_at, r.enqueued_xid as xid, tramline.gate_of(r.queue, r.limit_key, r.concurrency_key) as gate";

/// Stored bytes up to which an input is read with its header: what Postgres keeps in the row itself and does not compress. A
/// page of larger ones would not fit into memory.
const INLINE_MAX: usize = 2_000;

/// The columns of a body, null where it is not wanted (`wanted`, a parameter), or too large: of those that are large, and of the first,
/// which says whether there is a body. Asking for the sizes nine times a row would cost as much as reading it.
fn body(wanted: &str) -> String {
    let small = format!(
        "{wanted} and pg_column_size(r.input) <= {INLINE_MAX} and coalesce(pg_column_size(r.metadata), 0) <= {INLINE_MAX}"
    );
    BODY.map(|column| match column {
        "kind" | "input" | "metadata" => format!("case when {small} then r.{column} end as {column}"),
        _ => format!("case when {wanted} then r.{column} end as {column}"),
    })
    .join(", ")
}

/// The names of the columns of a body.
fn body_names(of: &str) -> String {
    BODY.map(|column| format!("{of}.{column}")).join(", ")
}

/// The statements of discovery, as they are prepared: so that tests can look at their plans.
#[derive(Debug, Clone)]
pub struct Sql {
    /// Parameters: shards, priorities, xids, ids, ends of ticks, smallest id, page, the snapshot that is known, whether bodies
    /// are wanted, transactions that are known.
    pub poll: String,
    /// Parameters as of `poll`, without the last three.
    pub late: String,
    /// Parameters: shards, old snapshot, new snapshot.
    pub commands: String,
    /// What is new to an owner that rests, and what maintenance would ask for.
    pub glance: String,
    /// Parameters: shards, their low-water marks, rows that are counted at most.
    pub overview: String,
    /// Parameters: shards, priorities, xids, ids, snapshots beyond which nothing is recorded (null = none), page, whether bodies
    /// are wanted.
    pub unfinished: String,
    /// Parameters: shard, priority, xid, id, page, the transaction up to which ticks have passed.
    pub unnamed: String,
    /// Parameters: ids, the smallest and the largest of them.
    pub named: String,
}

impl Default for Sql {
    fn default() -> Self {
        let part = |columns: &str, table: &str, foreign: bool, rest: &str| {
            let bound = if foreign { "" } else { " and r.run_id >= $6" };
            format!(
                "(select {HEADER}, {foreign} as is_foreign{columns} from tramline.{table} r where r.shard = c.shard and r.priority = c.priority \
                 and r.executor = 'engine'{bound} and {rest} limit $7)"
            )
        };
        let range = "(r.enqueued_xid, r.run_id) > (c.xid, c.run_id) and r.enqueued_xid < pg_snapshot_xmax(c.upto) \
                     and pg_visible_in_snapshot(r.enqueued_xid, c.upto) and r.enqueued_xid <> all (c.known) order by r.enqueued_xid, r.run_id";
        let with_body = format!(", {}", body("$9"));
        // One cursor, one bound: a second condition on the id would start the scan at the wrong place.
        // Where the snapshot is the known one there are no cursors: as a condition further out it would come after the reading.
        let poll = format!(
            "with n as materialized (select pg_current_snapshot() as snap, clock_timestamp() as at, $10::text[]::xid8[] as known)
             select n.snap::text, n.at, d.run_id, d.shard, d.priority, d.scheduled_at, d.xid, d.is_foreign, d.gate, {}
               from n left join lateral (
                 select r.* from (select i.shard, i.priority, i.xid::xid8 as xid, i.run_id, coalesce(i.upto::pg_snapshot, n.snap) as upto, n.known
                                    from unnest($1::int[], $2::smallint[], $3::text[], $4::uuid[], $5::text[]) as i(shard, priority, xid, run_id, upto)
                                   where n.snap::text <> $8 offset 0) c
                   cross join lateral ({} union all {} order by 5, 1 limit $7) r) d on true",
            body_names("d"),
            part(&with_body, "runs", false, range),
            part(&with_body, "runs_foreign", true, range),
        );
        // A range although it is one transaction: by equality the primary key gives the same order, and where most rows are of few
        // transactions the planner takes it and reads all of them.
        let exact = "(r.enqueued_xid, r.run_id) > (c.xid, c.run_id) and r.enqueued_xid <= c.xid order by r.enqueued_xid, r.run_id";
        let late = format!(
            "select r.run_id, r.shard, r.priority, r.scheduled_at, r.xid, r.is_foreign, r.gate
               from (select i.shard, i.priority, i.xid::xid8 as xid, i.run_id
                       from unnest($1::int[], $2::smallint[], $3::text[], $4::uuid[], $5::text[]) as i(shard, priority, xid, run_id, unused) offset 0) c
              cross join lateral ({} union all {} order by 1 limit $7) r",
            part("", "runs", false, exact),
            part("", "runs_foreign", true, exact),
        );
        // In the order of the column, not of its text: of 999 and 1000 the text of the second comes first.
        let commands = "select command_id, shard, subject_kind, subject_id, generation, verb, args, actor, reason, xid::text
               from tramline.commands
              where shard = any ($1) and xid >= pg_snapshot_xmin($2::text::pg_snapshot)
                and not pg_visible_in_snapshot(xid, $2::text::pg_snapshot) and pg_visible_in_snapshot(xid, $3::text::pg_snapshot)
              order by commands.xid, command_id";
        // Ends are looked up one by one: with a page of rows that is a few hundred index probes, whatever the history. (As a value: an
        // "exists" might be hashed, which reads all ends.) A run that waits for its start is named by its timer, and there may be a
        // million of them above a mark that something holds.
        let with_body_7 = format!(", {}", body("$7"));
        let open = |table: &str, ends: &str, foreign: bool| {
            format!(
                "(select {HEADER}, {foreign} as is_foreign{with_body_7} from tramline.{table} r
                  where r.shard = c.shard and r.priority = c.priority and r.executor = 'engine' and (r.enqueued_xid, r.run_id) > (c.xid, c.run_id)
                    and (coalesce(not pg_visible_in_snapshot(r.enqueued_xid, c.untouched), false)
                         or ((select true from tramline.{ends} e where e.run_id = r.run_id and e.shard = r.shard limit 1) is null
                             and (select true from tramline.timers t where t.run_id = r.run_id and t.kind = 'start' limit 1) is null))
                  order by r.enqueued_xid, r.run_id limit $6)"
            )
        };
        let unfinished = format!(
            "select r.run_id, r.shard, r.priority, r.scheduled_at, r.xid, r.is_foreign, r.gate, {}
               from (select i.shard, i.priority, i.xid::xid8 as xid, i.run_id, i.untouched::pg_snapshot as untouched
                       from unnest($1::int[], $2::smallint[], $3::text[], $4::uuid[], $5::text[]) as i(shard, priority, xid, run_id, untouched) offset 0) c
              cross join lateral ({} union all {} order by 5, 1 limit $6) r",
            body_names("r"),
            open("runs", "run_ends", false),
            open("runs_foreign", "run_ends_foreign", true),
        );
        // Counted is what the index holds from the mark on, whatever became of it and whoever executes it: what a statement reads is bounded.
        // (In the order of the discovery's index: of tables that look small the planner takes the primary key, and reads all of it.)
        let held = |from: &str| format!("(select count(*) from (select from tramline.{from} limit $3) q)");
        let runs = "r where r.shard = i.shard and r.priority = i.place and r.enqueued_xid >= i.low::xid8 order by r.enqueued_xid, r.run_id";
        let overview = format!(
            "with seen as materialized (select pg_current_snapshot()::text as snap, clock_timestamp() as at)
             select s.snap, s.at, h.shard, h.place, h.held from seen s left join lateral (
               select i.shard, i.place, case i.place when 4 then {} when 5 then {} when 6 then {} + {} else {} + {} end as held
                 from (select u.shard, u.low, p.place from unnest($1::int[], $2::text[]) as u(shard, low)
                        cross join unnest('{{0,1,2,3,4,5,6}}'::smallint[]) as p(place) offset 0) i offset 0) h on h.held > 0",
            held("parked k where k.shard = i.shard"),
            held("commands k where k.shard = i.shard"),
            held("limit_claims k where k.shard = i.shard"),
            held("limits k where k.shard = i.shard"),
            held(&format!("runs {runs}")),
            held(&format!("runs_foreign {runs}")),
        );
        let glance = format!("select pg_current_snapshot()::text, clock_timestamp(), {CHANGES}");
        // A page of runs as they come, whatever has become of them: what a statement reads does not depend on how many are named.
        let page = |table: &str, foreign: bool| {
            format!(
                "(select {HEADER}, {foreign} as is_foreign from tramline.{table} r
                  where r.shard = $1 and r.priority = $2 and r.executor = 'engine' and (r.enqueued_xid, r.run_id) > ($3::text::xid8, $4::uuid)
                    and r.enqueued_xid < $6::text::xid8 order by r.enqueued_xid, r.run_id limit $5)"
            )
        };
        let unnamed = format!(
            "select r.run_id, r.shard, r.priority, r.scheduled_at, r.xid, r.is_foreign, r.gate,
                    not exists (select from tramline.timers t where t.run_id = r.run_id and t.kind <> 'deadline')
                    and not exists (select from tramline.parked p where p.shard = r.shard and p.run_id = r.run_id)
                    and case when r.is_foreign then not exists (select from tramline.run_ends_foreign e where e.run_id = r.run_id and e.shard = r.shard)
                             else not exists (select from tramline.run_ends e where e.run_id = r.run_id and e.shard = r.shard) end as unnamed
               from ({} union all {} order by 5, 1 limit $5) r order by r.xid, r.run_id",
            page("runs", false),
            page("runs_foreign", true),
        );
        let named = format!(
            "select run_id, shard, priority, scheduled_at, enqueued_xid, false, tramline.gate_of(queue, limit_key, concurrency_key), {} from tramline.runs
              where run_id = any ($1) and run_id between $2 and $3 and executor = 'engine'",
            BODY.join(", ")
        );
        Self {
            named,
            poll,
            late,
            glance,
            commands: commands.to_owned(),
            overview,
            unfinished,
            unnamed,
        }
    }
}
