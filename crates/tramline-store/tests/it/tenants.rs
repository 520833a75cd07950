//! Who sees what: anon nothing, a user its own runs and those of its projects, and what belongs to them.

use serde_json::json;
use tokio_postgres::Client;
use tramline_core::machine::Row;
use tramline_core::status::RunStatus;
use uuid::Uuid;

use crate::support::*;

/// Runs of two users and of a project that the first is a member of, each with everything that a run can have.
struct Tenants {
    w: World,
    anna: Uuid,
    ben: Uuid,
    of_anna: Vec<Uuid>,
    of_project: Vec<Uuid>,
    of_ben: Vec<Uuid>,
}

async fn tenants() -> Tenants {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let (anna, ben) = (Uuid::new_v4(), Uuid::new_v4());
    w.sql
        .execute(
            "insert into ops.project_members values ('p', $1), ('q', $2)",
            &[&anna, &ben],
        )
        .await
        .unwrap();
    let mut made = Vec::new();
    for (created_by, project) in [(anna, None), (Uuid::new_v4(), Some("p")), (ben, Some("q"))] {
        let mut ids = Vec::new();
        for (run_id, is_foreign) in [(Uuid::now_v7(), false), (Uuid::new_v4(), true)] {
            let sql = "insert into ops.runs (run_id, target, created_by, project_id, input) values ($1, 'order', $2, $3, '{\"customer\": 1, \"amount\": 2}')";
            w.sql
                .execute(sql, &[&run_id, &created_by, &project])
                .await
                .unwrap();
            w.sql
                .execute(
                    "insert into ops.artifacts (run_id, name) values ($1, 'a')",
                    &[&run_id],
                )
                .await
                .unwrap();
            let of = if is_foreign {
                foreign(run_id)
            } else {
                first(run_id)
            };
            let rows = [
                step("one"),
                Row::Mark {
                    status: RunStatus::Running,
                    input: None,
                    metadata: Some(json!({ "seen": true })),
                },
                Row::Event {
                    event_type: "e",
                    level: "info",
                    message: "m".into(),
                    payload: None,
                },
                end(RunStatus::Failed),
                letter(),
            ];
            owner.record(of, &rows).await;
            ids.push(run_id);
        }
        ids.sort();
        made.push(ids);
    }
    let [of_anna, of_project, of_ben] = made.try_into().expect("three tenants");
    Tenants {
        w,
        anna,
        ben,
        of_anna,
        of_project,
        of_ben,
    }
}

async fn session(t: &Tenants, role: &str, user: Option<Uuid>) -> Client {
    let client = t.w.connect().await;
    let claims = json!({ "role": role, "sub": user }).to_string();
    client
        .execute("select set_config('request.jwt.claims', $1, false)", &[&claims])
        .await
        .unwrap();
    client.batch_execute(&format!("set role {role}")).await.unwrap();
    client
}

/// What a tenant may read, with the column that names the run.
const READABLE: [(&str, &str); 9] = [
    ("ops.runs", "run_id"),
    ("ops.run_steps", "run_id"),
    ("ops.run_events", "run_id"),
    ("ops.artifacts", "run_id"),
    ("ops.dead_letters", "run_id"),
    ("ops.workflow_executions", "id"),
    ("public.\"ops.runs\"", "run_id"),
    ("public.\"ops.run_events\"", "run_id"),
    ("public.\"ops.artifacts\"", "run_id"),
];

async fn seen(client: &Client, table: &str, column: &str) -> Vec<Uuid> {
    let sql = format!("select distinct {column} from {table} order by 1");
    client
        .query(&sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|r| r.get(0))
        .collect()
}

#[tokio::test]
async fn a_user_sees_its_own_runs_and_those_of_its_projects_and_all_of_theirs() {
    let t = tenants().await;
    let mut of_anna = [t.of_anna.clone(), t.of_project.clone()].concat();
    of_anna.sort();
    for (user, expected) in [
        (Some(t.anna), of_anna),
        (Some(t.ben), t.of_ben.clone()),
        (Some(Uuid::new_v4()), vec![]),
        (None, vec![]),
    ] {
        let client = session(&t, "authenticated", user).await;
        for (table, column) in READABLE {
            assert_eq!(
                seen(&client, table, column).await,
                expected,
                "{table} of {user:?}"
            );
        }
        let whole = "select count(*) from ops.runs where status = 'failed' and output is not null and metadata ? 'seen' and started_at is not null";
        assert_eq!(
            count(&client, whole).await,
            i64::try_from(expected.len()).unwrap(),
            "ends and marks of {user:?}"
        );
        let memberships = i64::from(user == Some(t.anna) || user == Some(t.ben));
        assert_eq!(
            count(&client, "select count(*) from ops.project_members").await,
            memberships
        );
    }
}

/// All relations of the schemas, as the superuser sees them.
async fn relations(w: &World) -> Vec<String> {
    let sql = "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where c.relkind in ('r', 'p', 'v') and (n.nspname in ('ops', 'tramline') or c.relname like 'ops.%')";
    w.sql
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|r| r.get(0))
        .collect()
}

#[tokio::test]
async fn a_user_writes_nothing_and_reads_nothing_else() {
    let t = tenants().await;
    let client = session(&t, "authenticated", Some(t.anna)).await;
    let base = ["runs", "run_ends", "run_marks", "run_steps", "run_events"];
    let mut readable: Vec<String> = READABLE.iter().map(|(table, _)| (*table).to_owned()).collect();
    readable.push("ops.project_members".into());
    readable.push("ops.pull_runs".into());
    readable.extend(
        [
            "all_runs",
            "all_ends",
            "all_marks",
            "all_steps",
            "all_events",
            "artifacts",
            "dead_letters",
            "project_members",
        ]
        .map(|t| format!("tramline.{t}")),
    );
    readable.extend(
        base.iter()
            .flat_map(|t| [format!("tramline.{t}"), format!("tramline.{t}_foreign")]),
    );
    for table in relations(&t.w).await {
        let reads = client.query(&format!("select from {table}"), &[]).await.is_ok();
        assert_eq!(reads, readable.contains(&table), "{table}");
        let writes = "has_table_privilege($1, 'insert, update, delete, truncate, references, trigger') or has_any_column_privilege($1, 'insert, update, references')";
        let row = client
            .query_one(&format!("select {writes}"), &[&table])
            .await
            .unwrap();
        assert!(!row.get::<_, bool>(0), "{table}");
    }
    for sql in [
        "insert into ops.runs (target) values ('step')",
        "update ops.runs set status = 'cancelled'",
        "update public.\"ops.runs\" set priority = 0",
        "delete from ops.artifacts",
        "insert into ops.run_events (run_id, message) values (gen_random_uuid(), 'x')",
        "insert into tramline.commands (shard, subject_id, verb) values (1, 'x', 'cancel')",
        "insert into ops.workflow_definitions (name, definition) values ('x', '{}')",
        "insert into ops.project_members values ('q', auth.uid())",
        "select ops.enqueue('step')",
        "select ops.cancel_run(gen_random_uuid())",
        "select ops.append_event(gen_random_uuid(), 'info', 'x')",
        "select tramline.request(gen_random_uuid(), 'cancel')",
        "select * from ops.schedules",
        "select * from tramline.shards",
    ] {
        assert_eq!(refusal(&client, sql, &[]).await, "42501", "{sql}");
    }
    assert_eq!(t.w.count("select count(*) from tramline.commands").await, 0);
}

#[tokio::test]
async fn anon_sees_nothing_and_may_call_nothing() {
    let t = tenants().await;
    // not even with a user's claims
    let client = session(&t, "anon", Some(t.anna)).await;
    for table in relations(&t.w).await {
        assert_eq!(
            refusal(&client, &format!("select from {table}"), &[]).await,
            "42501",
            "{table}"
        );
    }
    let callable = "select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                     where n.nspname in ('ops', 'tramline') and has_function_privilege(p.oid, 'execute')";
    assert_eq!(count(&client, callable).await, 0);
    for sql in [
        "select ops.enqueue('step')",
        "insert into ops.runs (target) values ('step')",
        "select tramline.uuid_v7()",
    ] {
        assert_eq!(refusal(&client, sql, &[]).await, "42501", "{sql}");
    }
}

#[tokio::test]
async fn membership_counts_from_the_moment_it_is_given() {
    let t = tenants().await;
    let client = session(&t, "authenticated", Some(t.ben)).await;
    t.w.sql
        .execute("insert into ops.project_members values ('p', $1)", &[&t.ben])
        .await
        .unwrap();
    assert_eq!(seen(&client, "ops.runs", "run_id").await.len(), 4);
    t.w.sql
        .execute("delete from ops.project_members where user_id = $1", &[&t.ben])
        .await
        .unwrap();
    assert_eq!(seen(&client, "ops.runs", "run_id").await, t.of_ben);
}

#[tokio::test]
async fn a_run_that_a_user_starts_through_the_service_is_its_own() {
    let t = tenants().await;
    let service = session(&t, "service_role", Some(t.ben)).await;
    let id: Uuid = service
        .query_one(
            "insert into ops.runs (target) values ('step') returning run_id",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    let ben = session(&t, "authenticated", Some(t.ben)).await;
    let anna = session(&t, "authenticated", Some(t.anna)).await;
    assert!(seen(&ben, "ops.runs", "run_id").await.contains(&id));
    assert!(!seen(&anna, "ops.runs", "run_id").await.contains(&id));
}
