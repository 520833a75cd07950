//! What the functions of a test did, kept in a file that no fault reaches, and the invariants that Postgres and this
//! file must keep together (I1 to I9 of docs/hazards.md).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::Client;
use tramline_engine::{Call, Handlers, Outcome};
use tramline_store::Db;
use uuid::Uuid;

use crate::support::*;

/// Delay before the second attempt of a retried step, in milliseconds.
pub const RETRY_DELAY_MS: i64 = 10;

/// The ledger of effects: one line per call, written in one piece, by any number of processes.
#[derive(Clone)]
pub struct Effects {
    path: Arc<PathBuf>,
    file: Arc<File>,
    node: Arc<str>,
}

/// One call of a function.
#[derive(Debug, Clone)]
pub struct Effect {
    pub number: Uuid,
    pub key: String,
    pub run_id: Uuid,
    pub step: String,
    pub generation: i32,
    pub attempt: i32,
    pub fence: i64,
    /// The effect of the step before, as this call was told.
    pub on: Option<Uuid>,
}

impl Effects {
    /// The ledger in a folder, as the functions of one node write it.
    pub fn of(folder: &Path, node: &str) -> Self {
        let path = folder.join("effects");
        let file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        Self {
            path: Arc::new(path),
            file: Arc::new(file),
            node: node.into(),
        }
    }

    /// Writes a call down and returns what it is to answer.
    pub fn note(&self, call: &Call) -> Value {
        self.write(json!({ "key": call.idempotency_key, "run": call.run_id, "step": call.step, "generation": call.generation,
            "attempt": call.attempt, "fence": call.fence, "on": call.body.get("on") }))
    }

    /// The same for the claim of a worker outside.
    pub fn note_claim(&self, run_id: Uuid, fence: i64) -> Value {
        let key = format!("{run_id}/{fence}");
        self.write(
            json!({ "key": key, "run": run_id, "step": "", "generation": 1, "attempt": 1, "fence": fence }),
        )
    }

    fn write(&self, mut line: Value) -> Value {
        let number = Uuid::now_v7();
        line["number"] = json!(number);
        line["node"] = json!(*self.node);
        (&*self.file).write_all(format!("{line}\n").as_bytes()).unwrap();
        json!({ "effect": number })
    }

    pub fn read(&self) -> Vec<Effect> {
        let text = std::fs::read_to_string(&*self.path).unwrap();
        let id = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let line = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let number = |name: &str| line[name].as_i64().unwrap();
            Effect {
                number: id(&line["number"]).unwrap(),
                key: line["key"].as_str().unwrap().into(),
                run_id: id(&line["run"]).unwrap(),
                step: line["step"].as_str().unwrap().into(),
                generation: i32::try_from(number("generation")).unwrap(),
                attempt: i32::try_from(number("attempt")).unwrap(),
                fence: number("fence"),
                on: id(&line["on"]),
            }
        };
        text.lines().map(line).collect()
    }

    /// `step` answers with its effect, `slow` some milliseconds later; `flaky` fails the first time; `poison` answers what
    /// cannot be stored.
    pub fn handlers(&self) -> Handlers {
        let noted = |fails: fn(&Call) -> bool| {
            let effects = self.clone();
            move |call: Call| {
                let output = effects.note(&call);
                let outcome = if fails(&call) {
                    failed("not yet")
                } else {
                    Outcome::completed(output)
                };
                async move { outcome }
            }
        };
        Handlers::default()
            .with("step", noted(|_| false))
            .with("limited", noted(|_| false))
            .with("flaky", noted(|call| call.attempt == 1))
            .with("slow", {
                let effects = self.clone();
                move |call: Call| {
                    let output = effects.note(&call);
                    let pause = Duration::from_millis(call.body["ms"].as_u64().unwrap_or(0));
                    async move {
                        tokio::time::sleep(pause).await;
                        Outcome::completed(output)
                    }
                }
            })
            .with("poison", |_| async { Outcome::completed(json!("a\u{0}b")) })
    }
}

/// Targets of the mixed workload: three steps that build on each other, a retry, a sleep, one that is never over by itself.
pub async fn publish_workload(store: &Db) {
    let call = |name: &str, function: &str, on: &str| json!({ "name": name, "function": function, "payload_template": { "on": on } });
    let retry = json!({ "max_attempts": 3, "backoff": "fixed", "initial": format!("{RETRY_DELAY_MS}ms"), "jitter": false });
    let mut flaky = call("two", "flaky", "{{steps.one.output.effect}}");
    flaky["on_failure"] = json!("retry");
    flaky["retry"] = retry;
    let (first, third) = (
        call("one", "step", "-"),
        call("three", "step", "{{steps.two.output.effect}}"),
    );
    let two = call("two", "step", "{{steps.one.output.effect}}");
    publish(store, json!({ "name": "three", "steps": [first, two, third] })).await;
    publish(
        store,
        json!({ "name": "retried", "steps": [first, flaky, third] }),
    )
    .await;
    let pause = json!({ "name": "pause", "sleep": "{{delay}}" });
    publish(
        store,
        json!({ "name": "sleepy", "required_fields": ["delay"], "steps": [first, pause, two] }),
    )
    .await;
    publish(
        store,
        json!({ "name": "endless", "steps": [first, { "name": "pause", "sleep": "24h" }] }),
    )
    .await;
}

/// Ends by run and generation, as they were seen.
pub type Ends = BTreeMap<(Uuid, i32), String>;

/// The ends that are recorded now; those that were seen before must still be what they were (I2).
pub async fn ends(client: &Client, before: &Ends) -> Ends {
    let sql = "select run_id, generation, to_jsonb(e)::text from (select * from tramline.run_ends union all select * from tramline.run_ends_foreign) e";
    let rows = client.query(sql, &[]).await.unwrap();
    let now: Ends = rows
        .iter()
        .map(|row| ((row.get(0), row.get(1)), row.get(2)))
        .collect();
    for (key, end) in before {
        assert_eq!(now.get(key), Some(end), "I2: the end of {key:?} has changed");
    }
    now
}

/// Nothing is answered to a question.
pub async fn none(client: &Client, what: &str, sql: &str) {
    let rows = client
        .query(&format!("select to_jsonb(q)::text from ({sql}) q limit 5"), &[])
        .await
        .unwrap();
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(rows.is_empty(), "{what}: {rows:#?}");
}

/// Checks what must hold when nothing is under way any more. `accepted` are the runs whose acceptance was answered; `faults`
/// bounds how often tramline itself may have repeated a call.
pub async fn check(effects: &Effects, client: &Client, accepted: &[Uuid], faults: usize) {
    // A run is over for its callers when its end is committed; what its owner tidies comes in the same commit.
    none(client, "I1: accepted and not ended", &format!(
        "select id from unnest(array[{}]::uuid[]) id where not exists (select from tramline.run_ends e where e.run_id = id)",
        accepted.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",")
    )).await;
    none(
        client,
        "I1: runs without an end",
        "select run_id, target from tramline.runs r
        where not exists (select from tramline.run_ends e where e.run_id = r.run_id)",
    )
    .await;
    none(
        client,
        "I2: two ends of a generation",
        "select run_id, generation from tramline.run_ends group by 1, 2 having count(*) > 1",
    )
    .await;
    none(
        client,
        "I3: a step succeeded twice",
        "select run_id, step, generation from tramline.run_steps where status = 'completed'
        group by 1, 2, 3 having count(*) > 1",
    )
    .await;
    none(client, "I4: a row of an epoch that was over", "select * from (
        select shard, epoch, lag(epoch) over (partition by shard order by xmin::text::bigint) as before, run_id
          from (select shard, epoch, e.xmin, run_id from tramline.run_ends e join tramline.runs using (run_id, shard) where executor = 'engine'
                union all select shard, epoch, xmin, run_id from tramline.run_steps where epoch is not null) r) r where epoch < before").await;
    none(client, "I6: two runs of a key at once", "select * from (
        select run_id, started_at, max(finished_at) over (partition by limit_key order by started_at, finished_at
                                                          rows between unbounded preceding and 1 preceding) as before
          from tramline.runs join tramline.run_ends using (run_id, shard) where target = 'limited' and started_at is not null) r
         where started_at < before").await;
    none(client, "I7: a period with two runs, or a run outside of its period", "select r.run_id from tramline.runs r
        where r.source like 'schedule:%' and not exists (
          select from tramline.schedule_periods p where p.run_id = r.run_id and r.source = 'schedule:' || p.schedule)").await;
    none(
        client,
        "I8: an attempt before its delay was over",
        &format!(
            "select a.run_id from tramline.run_steps a join tramline.run_steps b
            on (b.run_id, b.step, b.generation, b.attempt) = (a.run_id, a.step, a.generation, a.attempt + 1)
          where a.status = 'failed' and b.started_at < a.finished_at + interval '{RETRY_DELAY_MS} ms'"
        ),
    )
    .await;
    for table in [
        "tramline.commands",
        "tramline.limit_claims",
        "tramline.parked",
        "tramline.timers",
        "ops.pull_runs",
    ] {
        none(
            client,
            &format!("I9: left in {table}"),
            &format!("select * from {table}"),
        )
        .await;
    }
    none(
        client,
        "I9: deadlocks",
        "select deadlocks from pg_stat_database where datname = current_database() and deadlocks > 0",
    )
    .await;
    check_effects(effects, client, faults).await;
}

/// I3, I5 and I6: what is recorded is what happened, in its order, and as often as it may.
async fn check_effects(effects: &Effects, client: &Client, faults: usize) {
    let seen = effects.read();
    let by_number: HashMap<Uuid, &Effect> = seen.iter().map(|effect| (effect.number, effect)).collect();
    let runs = client
        .query("select run_id from tramline.runs", &[])
        .await
        .unwrap();
    let runs: HashSet<Uuid> = runs.iter().map(|row| row.get(0)).collect();
    let sql = "select run_id, step, generation, epoch, (output::jsonb ->> 'effect')::uuid from tramline.run_steps
                where status = 'completed' and function_name is not null
               union all select e.run_id, '', e.generation, e.epoch, (output::jsonb ->> 'effect')::uuid from tramline.run_ends e
                 join tramline.runs r using (run_id, shard) where e.status = 'completed' and r.kind = 'function'";
    let mut recorded: HashMap<(Uuid, String), Uuid> = HashMap::new();
    for row in client.query(sql, &[]).await.unwrap() {
        let (run_id, step, generation): (Uuid, String, i32) = (row.get(0), row.get(1), row.get(2));
        let number: Uuid = row
            .get::<_, Option<Uuid>>(4)
            .expect("a recorded success names its effect");
        let effect = by_number
            .get(&number)
            .unwrap_or_else(|| panic!("I5: {run_id} {step}: recorded, and never happened"));
        assert_eq!(
            (effect.run_id, &effect.step, effect.generation),
            (run_id, &step, generation),
            "I3: another call's result"
        );
        // An end of a worker outside has no epoch.
        let epoch: Option<i64> = row.get(3);
        assert!(
            epoch.is_none_or(|epoch| effect.fence <= epoch),
            "I4: recorded under {epoch:?}: {effect:?}"
        );
        recorded.insert((run_id, step), number);
    }
    let mut attempts: HashMap<(&str, i32), usize> = HashMap::new();
    for effect in &seen {
        assert!(
            runs.contains(&effect.run_id),
            "I5: an effect of no run: {effect:?}"
        );
        *attempts.entry((effect.key.as_str(), effect.attempt)).or_default() += 1;
        if let Some(on) = effect.on {
            let before = &by_number[&on];
            let step = (effect.run_id, before.step.clone());
            assert_eq!(
                recorded.get(&step),
                Some(&on),
                "I6: {effect:?} was called with what is not recorded"
            );
        }
    }
    for ((key, attempt), count) in attempts {
        assert!(
            count <= 1 + faults,
            "I5: {key} attempt {attempt} was made {count} times with {faults} faults"
        );
    }
}
