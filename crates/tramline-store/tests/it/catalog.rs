//! What runs refer to: definitions and functions.

use serde_json::{Value, json};
use tramline_store::api::{self, FunctionRow, NewRun, StoredVersion};

use crate::support::*;

async fn store(w: &World, name: &str, checksum: &str) -> StoredVersion {
    let definition = json!({ "name": name, "checksum": checksum });
    api::store_definition(&w.store, name, &definition, checksum, &[], Some("anna"))
        .await
        .unwrap()
}

const fn version(version: i32, created: bool) -> StoredVersion {
    StoredVersion { version, created }
}

#[tokio::test]
async fn an_equal_definition_makes_no_new_version() {
    let w = world().await;
    assert_eq!(store(&w, "flow", "a").await, version(1, true));
    assert_eq!(store(&w, "flow", "a").await, version(1, false));
    assert_eq!(store(&w, "flow", "b").await, version(2, true));
    assert_eq!(
        store(&w, "flow", "a").await,
        version(3, true),
        "back to an older one is a change"
    );
    let row = api::workflow(&w.store, "flow", None).await.unwrap().unwrap();
    assert_eq!(
        (row.version, row.status.as_str(), row.checksum.as_deref()),
        (3, "published", Some("a"))
    );
    let first = api::workflow(&w.store, "flow", Some(1)).await.unwrap().unwrap();
    assert_eq!(first.definition, json!({ "name": "flow", "checksum": "a" }));
    assert!(api::workflow(&w.store, "nobody", None).await.unwrap().is_none());
    let by: String = w
        .value(
            "select distinct created_by from ops.workflow_definitions where name = 'flow'",
            &[],
        )
        .await;
    assert_eq!(by, "anna");
}

#[tokio::test]
async fn nodes_that_store_the_same_at_once_make_one_version() {
    let w = world().await;
    let all = tokio::join!(
        store(&w, "flow", "a"),
        store(&w, "flow", "a"),
        store(&w, "flow", "a")
    );
    let created = [all.0, all.1, all.2].iter().filter(|s| s.created).count();
    assert_eq!(
        (
            created,
            w.count("select count(*) from ops.workflow_definitions where name = 'flow'")
                .await
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_definition_inserted_by_sql_waits_for_a_node() {
    let w = world().await;
    let sql = "insert into ops.workflow_definitions (name, definition, status, version, checksum, created_by) values ($1, $2, $3, 77, 'x', 'me')
               returning version, status, created_by";
    let insert = async |name: Option<&str>, status: Option<&str>, steps: Value| {
        let definition = json!({ "name": "flow", "steps": steps });
        let row = w
            .sql
            .query_one(sql, &[&name, &definition, &status])
            .await
            .unwrap();
        (
            row.get::<_, i32>(0),
            row.get::<_, String>(1),
            row.get::<_, String>(2),
        )
    };
    assert_eq!(
        insert(Some("flow"), Some("published"), json!([])).await,
        (1, "submitted".into(), "postgres".into()),
        "a writer cannot publish"
    );
    assert_eq!(
        insert(None, None, json!([1])).await,
        (2, "submitted".into(), "postgres".into()),
        "the name is in the definition"
    );
    assert_eq!(
        insert(Some("flow"), Some("draft"), json!([])).await,
        (3, "draft".into(), "postgres".into())
    );
    assert_eq!(w.refusal("select ops.enqueue('flow')", &[]).await, "TL404");
    assert_eq!(
        w.refusal(
            "insert into ops.workflow_definitions (name, definition) values ('no good', '{}')",
            &[]
        )
        .await,
        "23514"
    );
    let waiting = api::submitted_definitions(&w.store).await.unwrap();
    assert_eq!(waiting.iter().map(|d| d.version).collect::<Vec<_>>(), [1, 2]);

    let required = ["who".to_owned()];
    api::settle_definition(&w.store, "flow", 1, Ok(compiled("sum", &required)))
        .await
        .unwrap();
    let problems = json!([{ "path": "steps", "message": "is empty" }]);
    api::settle_definition(&w.store, "flow", 2, Err(&problems))
        .await
        .unwrap();
    // a second node comes to the same two, too late
    api::settle_definition(&w.store, "flow", 1, Err(&problems))
        .await
        .unwrap();
    api::settle_definition(&w.store, "flow", 2, Ok(compiled("sum", &required)))
        .await
        .unwrap();
    api::settle_definition(&w.store, "flow", 3, Ok(compiled("sum", &required)))
        .await
        .unwrap();
    let settled: Value = w
        .value("select jsonb_agg(jsonb_build_array(version, status, checksum, problems) order by version) from ops.workflow_definitions where name = 'flow'", &[])
        .await;
    assert_eq!(
        settled,
        json!([
            [1, "published", "sum", null],
            [2, "refused", null, problems],
            [3, "draft", null, null]
        ])
    );
    assert!(api::submitted_definitions(&w.store).await.unwrap().is_empty());
    assert_eq!(w.refusal("select ops.enqueue('flow')", &[]).await, "TL422");
}

#[tokio::test]
async fn a_run_is_pinned_to_the_version_that_was_published_when_it_was_enqueued() {
    let w = world().await;
    store(&w, "flow", "a").await;
    let run = || NewRun {
        target: "flow".into(),
        ..NewRun::default()
    };
    let one = w.accept(run()).await;
    store(&w, "flow", "b").await;
    let two = w.accept(run()).await;
    w.sql
        .execute(
            "insert into ops.workflow_definitions (name, definition) values ('flow', '{}')",
            &[],
        )
        .await
        .unwrap();
    let three = w.accept(run()).await;
    for (id, version) in [(one, 1), (two, 2), (three, 2)] {
        assert_eq!(w.row(id).await["version"], version);
    }
}

#[tokio::test]
async fn the_list_shows_what_counts_of_each_workflow() {
    let w = world().await;
    store(&w, "flow", "a").await;
    for name in ["flow", "new"] {
        w.sql
            .execute(
                "insert into ops.workflow_definitions (name, definition) values ($1, '{}')",
                &[&name],
            )
            .await
            .unwrap();
    }
    let list = api::list_workflows(&w.store).await.unwrap();
    let seen: Vec<_> = list
        .iter()
        .map(|r| (r.name.as_str(), r.version, r.status.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            ("flow", 1, "published"),
            ("new", 1, "submitted"),
            ("order", 1, "published")
        ]
    );
}

#[tokio::test]
async fn a_function_is_registered_once_and_follows_its_changes() {
    let w = world().await;
    let stamps = async || {
        w.value::<Vec<String>>(
            "select array_agg(updated_at::text order by name) from tramline.functions",
            &[],
        )
        .await
    };
    let before = stamps().await;
    api::register_functions(&w.store, &[function("step")])
        .await
        .unwrap();
    assert_eq!(stamps().await, before, "nothing has changed");
    let broken = FunctionRow {
        kind: "edge".into(),
        version: Some("v".into()),
        state: "broken".into(),
        reason: Some("why".into()),
        ..function("step")
    };
    api::register_functions(&w.store, &[broken, function("third")])
        .await
        .unwrap();
    let list = api::list_functions(&w.store).await.unwrap();
    let seen: Vec<_> = list
        .iter()
        .map(|f| {
            (
                f.name.as_str(),
                f.kind.as_str(),
                f.state.as_str(),
                f.reason.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("other", "handler", "ready", None),
            ("step", "edge", "broken", Some("why")),
            ("third", "handler", "ready", None)
        ]
    );
}

#[tokio::test]
async fn an_equal_definition_inserted_by_sql_makes_no_version() {
    let w = world().await;
    let insert = async |definition: &str| -> Value {
        w.value(
            "insert into ops.workflow_definitions (definition) values ($1::text::jsonb) returning jsonb_build_array(version, status, checksum)",
            &[&definition],
        )
        .await
    };
    let (one, other) = (r#"{"name": "w", "n": 1.0, "m": 2}"#, r#"{"name": "w", "n": 2}"#);
    assert_eq!(insert(one).await, json!([1, "submitted", null]));
    assert_eq!(
        insert(r#"{"m": 2, "name": "w", "n": 1}"#).await,
        json!([1, "submitted", null]),
        "twice"
    );
    api::settle_definition(&w.store, "w", 1, Ok(compiled("sum-1", &[])))
        .await
        .unwrap();
    assert_eq!(
        insert(one).await,
        json!([1, "published", "sum-1"]),
        "the row says so"
    );
    assert_eq!(insert(other).await, json!([2, "submitted", null]));
    assert_eq!(
        insert(one).await,
        json!([3, "submitted", null]),
        "equal to one that is not the newest"
    );
    // Meanwhile a node stores what equals version 2.
    let stored = api::store_definition(&w.store, "w", &json!({}), "sum-2", &[], None)
        .await
        .unwrap();
    assert_eq!((stored.version, stored.created), (4, true));
    for version in [2, 3] {
        let checksum = ["sum-2", "sum-1"][version - 2];
        api::settle_definition(
            &w.store,
            "w",
            i32::try_from(version).unwrap(),
            Ok(compiled(checksum, &[])),
        )
        .await
        .unwrap();
    }
    let settled: Value = w
        .value("select jsonb_agg(jsonb_build_array(version, status, problems -> 0 ->> 'message') order by version) from ops.workflow_definitions where name = 'w'", &[])
        .await;
    assert_eq!(
        settled,
        json!([
            [1, "published", null],
            [2, "retired", "it is equal to version 4, which is published"],
            [3, "published", null],
            [4, "published", null]
        ])
    );
}
