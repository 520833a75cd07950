//! Plans: with a large backlog and a history the hot statements read index ranges only, and few pages.

use serde_json::Value;
use tokio_postgres::Client;
use tramline_core::snapshot::Snapshot;
use tramline_store::discovery::{FEW, PAGE, SETTINGS, Sql};
use uuid::Uuid;

use crate::support::*;

/// Runs that wait in the database.
const WAITING: i64 = 100_000;

/// What a statement did, by its own account.
#[derive(Debug)]
pub struct Explained {
    pub rows: i64,
    /// Pages, in memory or not.
    pub buffers: i64,
    /// Nodes that were executed: their type and the table or index they read.
    nodes: Vec<(String, String)>,
    pub text: String,
}

impl Explained {
    /// Tables that were really read.
    fn tables(&self) -> Vec<&str> {
        self.nodes
            .iter()
            .map(|(_, table)| table.as_str())
            .filter(|t| !t.is_empty())
            .collect()
    }

    pub fn assert_reads(&self, what: &str, buffers_max: i64) {
        let whole = |kind: &str| kind == "Seq Scan" || kind.starts_with("Bitmap");
        assert!(
            !self.nodes.iter().any(|(kind, _)| whole(kind)),
            "{what}: {}",
            self.text
        );
        assert!(
            self.buffers <= buffers_max,
            "{what}: {} pages, {} rows\n{}",
            self.buffers,
            self.rows,
            self.text
        );
    }
}

/// Executes a prepared statement, with arguments as SQL.
pub async fn explain(client: &Client, name: &str, arguments: &str) -> Explained {
    let arguments = if arguments.is_empty() {
        String::new()
    } else {
        format!("({arguments})")
    };
    let sql = format!("explain (analyze, buffers, timing off, format json) execute {name}{arguments}");
    let plan: Value = client
        .query_one(&sql, &[])
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"))
        .get(0);
    let root = &plan[0]["Plan"];
    let mut nodes = Vec::new();
    collect(root, &mut nodes);
    let pages = |what: &str| root[what].as_i64().unwrap_or_default();
    Explained {
        rows: root["Actual Rows"].as_f64().unwrap_or_default() as i64,
        buffers: pages("Shared Hit Blocks") + pages("Shared Read Blocks"),
        nodes,
        text: outline(root, 0),
    }
}

/// The plan as a few words per executed node.
fn outline(node: &Value, depth: usize) -> String {
    let fields = [
        "Relation Name",
        "Index Name",
        "Index Cond",
        "Filter",
        "Rows Removed by Filter",
        "Rows Removed by Join Filter",
        "Actual Rows",
        "Actual Loops",
        "Shared Hit Blocks",
        "Shared Read Blocks",
    ];
    let mut text = format!(
        "{}{}",
        "  ".repeat(depth),
        node["Node Type"].as_str().unwrap_or_default()
    );
    for field in fields.iter().filter(|f| !node[**f].is_null()) {
        text += &format!(" {field}={}", node[*field]);
    }
    text.push('\n');
    for child in node["Plans"].as_array().into_iter().flatten() {
        text += &outline(child, depth + 1);
    }
    text
}

fn collect(node: &Value, into: &mut Vec<(String, String)>) {
    if node["Actual Loops"].as_f64().unwrap_or_default() > 0.0 {
        let text = |name: &str| node[name].as_str().unwrap_or_default().to_owned();
        into.push((text("Node Type"), text("Relation Name")));
        for child in node["Plans"].as_array().into_iter().flatten() {
            collect(child, into);
        }
    }
}

/// Makes a backlog in a hundred transactions, with a history: every tenth run has ended, has a step, and was parked.
async fn backlog(w: &World) {
    w.sql
        .batch_execute(&format!(
            "do $$ begin
               for i in 1..100 loop
                 insert into tramline.runs (run_id, shard, kind, target, source, priority)
                 select id, tramline.shard_of(id), 'function', 'step', 'test', 2
                   from (select tramline.uuid_v7() as id from generate_series(1, {WAITING} / 100) offset 0) q;
                 commit;
               end loop;
             end $$"
        ))
        .await
        .unwrap();
    w.sql
        .batch_execute(
            "insert into tramline.run_ends (run_id, shard, generation, status) select run_id, shard, 1, 'completed' from tramline.runs where random() < 0.1;
             insert into tramline.run_steps (run_id, shard, step, generation, attempt, status, started_at)
               select run_id, shard, 's', 1, 1, 'completed', now() from tramline.run_ends;
             insert into tramline.timers (shard, due_at, run_id, generation, kind)
               select shard, now() + interval '1 day', run_id, 1, 'start' from tramline.runs where random() < 0.2;
             insert into tramline.parked (shard, run_id, why) select shard, run_id, 'x' from tramline.run_ends",
        )
        .await
        .unwrap();
}

fn array(items: impl IntoIterator<Item = String>, kind: &str) -> String {
    format!(
        "array[{}]::{kind}[]",
        items.into_iter().collect::<Vec<_>>().join(",")
    )
}

/// Arguments of a poll or a look for late runs: all shards in all classes from a transaction on.
pub fn cursors(xid: u64) -> String {
    let all = || (0..16).flat_map(|shard| (0..4).map(move |class| (shard, class)));
    [
        array(all().map(|(shard, _)| shard.to_string()), "int"),
        array(all().map(|(_, class)| class.to_string()), "smallint"),
        array(all().map(|_| format!("'{xid}'")), "text"),
        array(all().map(|_| format!("'{}'", Uuid::nil())), "uuid"),
        array(all().map(|_| "null".to_owned()), "text"),
        "tramline.uuid_at(now() - interval '1 day')".to_owned(),
        PAGE.to_string(),
    ]
    .join(",")
}

/// Arguments of a scan of one shard after a position.
pub fn scan(shard: u16, xid: u64, after: Uuid) -> String {
    format!(
        "array[{shard}]::int[], array[2]::smallint[], array['{xid}']::text[], array['{after}']::uuid[], array[null]::text[], {PAGE}, true"
    )
}

/// Arguments of an overview of all shards from a mark on.
fn overview(low: u64) -> String {
    let shards = array((0..16).map(|shard| shard.to_string()), "int");
    let lows = array((0..16).map(|_| format!("'{low}'")), "text");
    format!("{shards}, {lows}, {}", FEW + 1)
}

#[tokio::test]
async fn a13_discovery_reads_index_ranges_and_few_pages_whatever_waits() {
    let w = world().await;
    backlog(&w).await;
    let client = w.connect().await;
    client.batch_execute(SETTINGS).await.unwrap();
    let sql = Sql::default();
    for (name, text) in [
        ("poll", &sql.poll),
        ("late", &sql.late),
        ("commands", &sql.commands),
        ("overview", &sql.overview),
        ("unfinished", &sql.unfinished),
        ("glance", &sql.glance),
        ("sweep", &sql.unnamed),
    ] {
        client
            .batch_execute(&format!("prepare {name} as {text}"))
            .await
            .unwrap_or_else(|e| panic!("{name}: {e:?}"));
    }
    let last: String = w.value("select pg_current_snapshot()::text", &[]).await;
    let last: Snapshot = last.parse().unwrap();
    w.enqueue(&vec![step_run(); 20]).await;
    let now: String = w.value("select pg_current_snapshot()::text", &[]).await;
    let middle: String = w.value("select percentile_disc(0.5) within group (order by enqueued_xid::text::bigint)::text from tramline.runs", &[]).await;
    let in_a_transaction = WAITING / 100;
    for statistics in ["none", "fresh"] {
        // an idle look at all shards in all classes: one range each, in yesterday's, today's and the sibling's index
        let poll = explain(
            &client,
            "poll",
            &format!("{}, '', true, '{{}}'", cursors(last.xmax)),
        )
        .await;
        assert_eq!(poll.rows, 20);
        poll.assert_reads("poll", 64 * 16);
        let known = explain(
            &client,
            "poll",
            &format!("{}, pg_current_snapshot()::text, true, '{{}}'", cursors(0)),
        )
        .await;
        assert!(
            known.buffers <= 64,
            "nothing is read when nothing has happened: {}",
            known.text
        );
        let late = explain(&client, "late", &cursors(middle.parse().unwrap())).await;
        assert_eq!(late.rows, in_a_transaction);
        late.assert_reads("late", 64 * 16 + in_a_transaction);
        // a page in the middle of the backlog: the row and the look for its end
        let middle_xid = middle.parse().unwrap();
        let unfinished = explain(&client, "unfinished", &scan(3, middle_xid, Uuid::nil())).await;
        assert_eq!(unfinished.rows, PAGE);
        unfinished.assert_reads("unfinished", PAGE * 8);
        // how much there is in all shards: a few rows of each place, however much it holds
        let overview = explain(&client, "overview", &overview(0)).await;
        assert_eq!(overview.rows, 2 * 16, "a class of runs, and parked rows");
        overview.assert_reads("overview", 2 * 16 * (FEW + 8) + 16 * 16 * 7);
        let above = explain(&client, "overview", &self::overview(last.xmax)).await;
        above.assert_reads("overview above the mark", 16 * (FEW + 8) + 16 * 16 * 7);
        // The first execution reads catalogs.
        client.batch_execute("execute glance").await.unwrap();
        let glance = explain(&client, "glance", "").await;
        assert!(glance.buffers <= 16, "{}", glance.text);
        let page = format!("3, 2, '{middle}', '{}', {PAGE}", Uuid::nil());
        let sweep = explain(&client, "sweep", &format!("{page}, '{}'", last.xmax)).await;
        assert_eq!(sweep.rows, PAGE);
        sweep.assert_reads("sweep", PAGE * 10);
        let commands = explain(
            &client,
            "commands",
            &format!(
                "array[{}], '{last}', '{now}'",
                (0..16).map(|s| s.to_string()).collect::<Vec<_>>().join(",")
            ),
        )
        .await;
        commands.assert_reads("commands", 64);
        if statistics == "none" {
            w.sql.batch_execute("analyze").await.unwrap();
            client.batch_execute("discard plans").await.unwrap();
        }
    }

    // the same backlog: one run, and the newest ones
    let id: Uuid = w
        .value("select run_id from tramline.run_ends offset 50 limit 1", &[])
        .await;
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let client = w.connect().await;
        // of the tables that are empty here the planner would rather read the nothing there is
        client.batch_execute("set enable_seqscan = off").await.unwrap();
        client.batch_execute(&format!("set plan_cache_mode = {mode}; prepare by_id(uuid) as select * from ops.runs where run_id = $1")).await.unwrap();
        let found = explain(&client, "by_id", &format!("'{id}'")).await;
        assert_eq!(found.rows, 1);
        found.assert_reads("by id", 40);
        let today: String = w
            .value("select to_char(now() at time zone 'UTC', 'YYYYMMDD')", &[])
            .await;
        for table in found.tables() {
            assert!(
                table.ends_with(&today) || table.ends_with("_foreign"),
                "{mode} reads {table}"
            );
        }
        client
            .batch_execute("prepare newest as select * from ops.runs order by run_id desc limit 50")
            .await
            .unwrap();
        let newest = explain(&client, "newest", "").await;
        assert_eq!(newest.rows, 50);
        newest.assert_reads("newest", 50 * 25);
    }
}
