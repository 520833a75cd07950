//! Random faults under a mixed load, checked against an effect ledger outside Postgres.
//!
//! Nodes are processes; everything they know of the database goes through a proxy of their own. Faults are drawn from a
//! seed that is printed: `TRAMLINE_TORTURE_SEED` repeats a run, `TRAMLINE_TORTURE_MINUTES`, `TRAMLINE_TORTURE_NODES` and
//! `TRAMLINE_TORTURE_BATCH` choose its length and size (`make torture`).

mod faults;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use serde_json::json;
use tramline_core::definition::parse_limit;
use tramline_core::schedule::Spec;
use tramline_store::api::{self, FunctionRow, NewRun};
use tramline_store::schedules::{self, NewSchedule};
use tramline_store::{Db, limits};
use tramline_testkit::{ChaosProxy, TestCluster};
use uuid::Uuid;

use crate::effects::*;
use crate::processes::Node;
use crate::support::*;
use crate::worker::Worker;

/// Rounds of the tests that are part of every run of the suite; each is one batch of runs and one fault.
const ROUNDS: u32 = 8;
/// Runs of a batch, unless it is told otherwise.
const BATCH: u32 = 40;
/// Recorded ends that are looked at after every fault.
const ENDS_LOOKED_AT: usize = 5_000;
/// The longest that a slow call takes: nodes are killed, and shards change hands, while it is out.
const SLOW_MAX_MS: u64 = 3_000;

/// A node with its way to the database.
struct Member {
    node: Node,
    proxy: ChaosProxy,
}

struct Torture {
    random: StdRng,
    cluster: TestCluster,
    url: String,
    store: Db,
    folder: tempfile::TempDir,
    members: Vec<Member>,
    wanted: usize,
    batch: u32,
    started: u32,
    accepted: Vec<Uuid>,
    endless: Vec<Uuid>,
    faults: usize,
    ends: Ends,
}

fn from_env<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(format!("TRAMLINE_TORTURE_{name}")).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("TRAMLINE_TORTURE_{name} is a number")),
    )
}

impl Torture {
    async fn new(wanted: usize) -> Self {
        let seed = from_env("SEED").unwrap_or_else(rand::random::<u64>);
        println!("TRAMLINE_TORTURE_SEED={seed}, {wanted} nodes");
        let cluster = TestCluster::with_own_disk().await;
        let url = cluster.url("postgres");
        tramline_store::migrate(&url).await.unwrap();
        let store = Db::new(&url, 4).unwrap();
        let functions: Vec<FunctionRow> = ["step", "flaky", "limited", "slow", "poison"].map(handler).into();
        api::register_functions(&store, &functions).await.unwrap();
        publish_workload(&store).await;
        let limit = parse_limit(&json!({ "key": "k", "concurrency": 1 }), "limit").unwrap();
        limits::set_target(&store, "limited", Some(&limit)).await.unwrap();
        schedules::store(&store, &every_second()).await.unwrap();
        Self {
            random: StdRng::seed_from_u64(seed),
            cluster,
            url,
            store,
            folder: tempfile::tempdir().unwrap(),
            members: Vec::new(),
            wanted,
            batch: from_env("BATCH").unwrap_or(BATCH),
            started: 0,
            accepted: Vec::new(),
            endless: Vec::new(),
            faults: 0,
            ends: Ends::new(),
        }
    }

    async fn fill_up(&mut self) {
        while self.members.len() < self.wanted {
            let proxy = ChaosProxy::start(&self.url).await;
            self.started += 1;
            let name = format!("node-{}", self.started);
            let node = Node::start(&name, proxy.url(), self.folder.path(), LEASE).await;
            self.members.push(Member { node, proxy });
        }
    }

    fn run(&mut self) -> NewRun {
        let run = |target: &str| NewRun {
            run_id: Some(Uuid::now_v7()),
            target: target.into(),
            ..NewRun::default()
        };
        match self.random.random_range(0..100) {
            0..20 => run("step"),
            20..25 => NewRun {
                input: json!({ "ms": self.random.random_range(0..SLOW_MAX_MS) }),
                ..run("slow")
            },
            25..45 => run("three"),
            45..60 => run("retried"),
            60..75 => {
                let sleep = self.random.random_range(5..7_000);
                let delay = self.random.random_range(0..2_000);
                NewRun {
                    input: json!({ "delay": format!("{sleep}ms") }),
                    delay: Some(Duration::from_millis(delay)),
                    ..run("sleepy")
                }
            }
            75..85 => NewRun {
                // a key decides about the id
                run_id: None,
                input: json!({ "k": self.random.random_range(0..3) }),
                correlation_id: Some(Uuid::now_v7().to_string()),
                ..run("limited")
            },
            85..90 => run("endless"),
            90..97 => NewRun {
                queue: Some("ops".into()),
                ..run("step")
            },
            _ => run("poison"),
        }
    }

    async fn enqueue(&mut self) {
        let runs: Vec<NewRun> = (0..self.batch).map(|_| self.run()).collect();
        // An error means that nothing is known: the same is sent again.
        let answers = in_time(async {
            loop {
                match api::enqueue(&self.store, &runs).await {
                    Ok(answers) => return answers,
                    Err(error) => assert!(error.is_unknown_outcome(), "{error:?}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        for (run, answer) in runs.iter().zip(answers) {
            let id = answer.unwrap().run_id;
            self.accepted.push(id);
            if run.target == "endless" {
                self.endless.push(id);
            }
        }
    }

    /// Asks for the end of what never ends by itself.
    async fn cancel(&mut self) {
        let client = tramline_testkit::connect(&self.url).await;
        for id in std::mem::take(&mut self.endless) {
            let asked = "update ops.runs set status = 'cancelled' where run_id = $1 and status not in ('completed', 'failed', 'cancelled')";
            client.execute(asked, &[&id]).await.unwrap();
        }
    }

    async fn round(&mut self) {
        self.fill_up().await;
        self.enqueue().await;
        tokio::time::sleep(Duration::from_millis(self.random.random_range(20..500))).await;
        self.fault().await;
        let client = self.until_back().await;
        // All ends are read for this: seldom, when there are many.
        if self.ends.len() < ENDS_LOOKED_AT || self.random.random_ratio(1, 10) {
            self.ends = ends(&client, &self.ends).await;
        }
        if self.random.random_bool(0.5) {
            self.cancel().await;
        }
    }

    /// No fault any more: everything that was accepted ends, and the invariants hold.
    async fn heal(mut self, worker: Worker) {
        self.fill_up().await;
        self.cancel().await;
        schedules::pause(&self.store, "tick", true, "ada", None)
            .await
            .unwrap();
        let client = self.until_back().await;
        let open = "select count(*) from tramline.runs r where not exists (select from tramline.run_ends e where e.run_id = r.run_id)";
        if !becomes(&client, open, 0).await {
            panic!("runs do not end; rows about them: {}", about_open(&client).await);
        }
        // What is recorded of a run that was tidied after its end: a claim, a period that was taken back.
        until_count(&client, "select count(*) from tramline.commands", 0).await;
        let effects = worker.stop().await;
        self.ends = ends(&client, &self.ends).await;
        check(&effects, &client, &self.accepted, self.faults).await;
        // A slow call that lost its node again and again is given up, as it should be.
        let unexpected = "select r.target, r.source, e.status, e.error from tramline.runs r join tramline.run_ends e using (run_id, shard)
            where e.status <> (case r.target when 'poison' then 'failed' when 'endless' then 'cancelled' else 'completed' end)
              and e.status <> 'skipped' and not (r.source like 'schedule:%' and e.status = 'cancelled')
              and not (r.target = 'slow' and e.error ->> 'code' = 'crash_loop')";
        none(&client, "runs that ended otherwise", unexpected).await;
        let run = client
            .query_one("select count(*) from tramline.runs", &[])
            .await
            .unwrap();
        println!(
            "{} runs, {} effects, {} faults",
            run.get::<_, i64>(0),
            effects.read().len(),
            self.faults
        );
        for mut member in self.members.drain(..) {
            assert_eq!(
                member.node.look().await.1,
                0,
                "the sweep found what discovery had missed"
            );
            member.node.stop().await;
        }
    }
}

/// What the database says of runs that do not end: a stall can be looked at only while it is there.
async fn about_open(client: &tokio_postgres::Client) -> String {
    let rows = client
        .query_one(
            "select jsonb_pretty(jsonb_build_object(
               'runs', (select jsonb_agg(o) from (select r.run_id, r.target, r.executor, r.shard, r.source, r.enqueued_xid, r.queued_at, r.scheduled_at, r.queue,
                          (select jsonb_agg(m.status) from tramline.run_marks m where m.run_id = r.run_id) as marks,
                          (select jsonb_agg(t) from tramline.timers t where t.run_id = r.run_id) as timers
                        from tramline.runs r where not exists (select from tramline.run_ends e where e.run_id = r.run_id) order by r.enqueued_xid limit 20) o),
               'shards', (select jsonb_agg(to_jsonb(s)) from tramline.shards s where s.shard in
                           (select r.shard from tramline.runs r where not exists (select from tramline.run_ends e where e.run_id = r.run_id))),
               'nodes', (select jsonb_agg(to_jsonb(n)) from tramline.nodes n),
               'commands', (select count(*) from tramline.commands),
               'now', clock_timestamp(), 'snapshot', pg_current_snapshot(),
               'sessions', (select jsonb_agg(a) from (select pid, application_name, state, wait_event, xact_start, backend_xid, backend_xmin, left(query, 80) as query
                             from pg_stat_activity where datname = current_database()) a),
               'locks', (select jsonb_agg(l) from (select pid, mode, granted, classid, count(*) as locks, min(objid) as lowest
                          from pg_locks where locktype = 'advisory' group by 1, 2, 3, 4) l)))",
            &[],
        )
        .await;
    rows.map_or_else(|error| error.to_string(), |row| row.get(0))
}

fn handler(name: &str) -> FunctionRow {
    FunctionRow {
        name: name.into(),
        kind: "handler".into(),
        version: None,
        auth: None,
        state: "ready".into(),
        reason: None,
    }
}

fn every_second() -> NewSchedule {
    NewSchedule {
        name: "tick".into(),
        spec: Spec::cron("* * * * * *", "UTC"),
        target: "step".into(),
        input: json!({}),
        queue: None,
        priority: None,
        paused: None,
        source: "test".into(),
    }
}

async fn torture(nodes: usize, goes_on: impl Fn(u32) -> bool) {
    let mut torture = Torture::new(nodes).await;
    let worker = Worker::start(&torture.url, Effects::of(torture.folder.path(), "worker"));
    let mut round = 0;
    while goes_on(round) {
        torture.round().await;
        round += 1;
    }
    torture.heal(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_lose_nothing_and_double_nothing_whatever_happens() {
    torture(2, |round| round < ROUNDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_lose_nothing_and_double_nothing_whatever_happens() {
    torture(5, |round| round < ROUNDS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs as long as `make torture` is told to"]
async fn for_a_chosen_time() {
    let minutes: f64 = from_env("MINUTES").unwrap_or(10.0);
    let until = Arc::new(Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    torture(from_env("NODES").unwrap_or(3), move |_| Instant::now() < *until).await;
}
