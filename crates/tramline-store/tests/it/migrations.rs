//! Bringing a database to the schema of this build, and refusing what is not fit.

use tramline_core::status::RunStatus;
use tramline_store::api::{self, NewRun};
use tramline_store::discovery::{Cursor, Poll, Reader};
use tramline_store::{Db, MigrateReport, StoreError, check_durable, migrate};
use tramline_testkit::{TestCluster, connect, empty_db};
use uuid::Uuid;

use crate::support::*;

#[tokio::test]
async fn a_second_migration_does_nothing() {
    let db = empty_db().await;
    let first = migrate(db.url()).await.unwrap();
    assert_eq!(
        (first.applied.len(), first.version > 0),
        (usize::try_from(first.version).unwrap(), true)
    );
    let again = migrate(db.url()).await.unwrap();
    assert_eq!(
        again,
        MigrateReport {
            applied: vec![],
            version: first.version
        }
    );
}

#[tokio::test]
async fn nodes_that_start_at_once_migrate_once() {
    let db = empty_db().await;
    let (one, two, three) = tokio::join!(migrate(db.url()), migrate(db.url()), migrate(db.url()));
    let mut applied: Vec<_> = [one, two, three]
        .into_iter()
        .map(|r| r.unwrap().applied.len())
        .collect();
    applied.sort_unstable();
    assert!(applied[..2] == [0, 0] && applied[2] > 0, "{applied:?}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let db = empty_db().await;
    let version = migrate(db.url()).await.unwrap().version;
    let client = db.connect().await;
    client
        .execute(
            "insert into tramline.migrations (version, name) values (999, 'future')",
            &[],
        )
        .await
        .unwrap();
    let error = migrate(db.url()).await.unwrap_err();
    assert!(
        matches!(error, StoreError::NewerSchema { found: 999, known } if known == version),
        "{error:?}"
    );
    // nobody waits for a lock that the refused one left behind
    client
        .execute("delete from tramline.migrations where version = 999", &[])
        .await
        .unwrap();
    assert!(migrate(db.url()).await.unwrap().applied.is_empty());
}

#[tokio::test]
async fn a_schema_made_by_other_migrations_is_refused_by_name() {
    let db = empty_db().await;
    migrate(db.url()).await.unwrap();
    let client = db.connect().await;
    client
        .execute(
            "update tramline.migrations set checksum = null where version = 3",
            &[],
        )
        .await
        .unwrap();
    let error = migrate(db.url()).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::ChangedSchema { name } if name == "0003_ledger_tables"),
        "{error:?}"
    );
    assert!(error.to_string().contains("dev --reset"), "{error}");
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing_of_itself_and_names_the_place() {
    let db = empty_db().await;
    let client = db.connect().await;
    client
        .batch_execute("create schema tramline; create table tramline.run_ends (x int)")
        .await
        .unwrap();
    let error = migrate(db.url()).await.unwrap_err();
    let StoreError::Migration { name, message } = error else {
        panic!("{error:?}")
    };
    assert!(
        name.starts_with("0003") && message.contains("run_ends"),
        "{name}: {message}"
    );
    let done =
        "select (select max(version) from tramline.migrations) = 2 and to_regclass('tramline.runs') is null";
    assert!(client.query_one(done, &[]).await.unwrap().get::<_, bool>(0));
    client
        .batch_execute("drop table tramline.run_ends")
        .await
        .unwrap();
    assert!(migrate(db.url()).await.unwrap().applied[0].starts_with("0003"));
}

#[tokio::test]
async fn a_server_that_may_lose_what_it_acknowledged_is_refused() {
    let db = empty_db().await;
    let store = || Db::new(db.url(), 1).unwrap();
    check_durable(&store()).await.unwrap();
    let client = db.connect().await;
    client
        .batch_execute(&format!(
            "alter database {} set synchronous_commit = off",
            db.name()
        ))
        .await
        .unwrap();
    let error = check_durable(&store()).await.unwrap_err();
    assert!(
        matches!(error, StoreError::NotDurable { ref setting } if setting == "synchronous_commit"),
        "{error:?}"
    );
    client
        .batch_execute(&format!(
            "alter database {} set synchronous_commit = local",
            db.name()
        ))
        .await
        .unwrap();
    check_durable(&store()).await.unwrap();
}

/// A server of its own: roles belong to the whole server, and must not exist here before.
#[tokio::test]
async fn no_superuser_is_needed() {
    let cluster = TestCluster::private().await;
    let admin = connect(&cluster.url("postgres")).await;
    for database in ["one", "two", "three"] {
        admin
            .batch_execute(&format!("create role {database} login createrole"))
            .await
            .unwrap();
        admin
            .batch_execute(&format!(
                "create database {database} owner {database} template template0"
            ))
            .await
            .unwrap();
    }
    let url = |name: &str| cluster.url(name).replace("postgres@", &format!("{name}@"));
    // the roles are made for all of them by whoever comes first
    let urls = ["one", "two", "three"].map(url);
    let (one, two, three) = tokio::join!(migrate(&urls[0]), migrate(&urls[1]), migrate(&urls[2]));
    for report in [one, two, three] {
        assert!(!report.unwrap().applied.is_empty());
    }
    let superuser = "select rolsuper or rolbypassrls from pg_roles where rolname = 'service_role'";
    assert!(
        !admin.query_one(superuser, &[]).await.unwrap().get::<_, bool>(0),
        "nobody could give it more"
    );

    // the owner of the database drives runs
    let store = Db::new(&urls[0], 2).unwrap();
    api::register_functions(&store, &[function("step")])
        .await
        .unwrap();
    let reader = Reader::connect(&store).await.unwrap();
    let (start, _) = reader.snapshot().await.unwrap();
    let run = NewRun {
        run_id: Some(id_in(1)),
        ..step_run()
    };
    let id = api::enqueue(&store, &[run])
        .await
        .unwrap()
        .remove(0)
        .unwrap()
        .run_id;
    let page = reader
        .poll(Poll::of(&[Cursor::after(1, 2, &start)], tramline_store::NIL))
        .await
        .unwrap();
    assert_eq!(page.headers.iter().map(|h| h.run_id).collect::<Vec<_>>(), [id]);
    let owner = Owner::of_all(&store).await;
    owner.keeper.beat(&[(1, owner.epochs[&1], 1)]).await.unwrap();
    owner
        .record(first(id), &[step("one"), end(RunStatus::Completed)])
        .await;
    assert_eq!(
        api::get_run(&store, id).await.unwrap().unwrap().status,
        "completed"
    );
    tramline_store::tidy::ensure_partitions(&store).await.unwrap();

    // the service role cannot pass row security here; policies serve it
    let service = connect(&cluster.url("one")).await;
    service.batch_execute("set role service_role").await.unwrap();
    let started: Uuid = service
        .query_one("select ops.enqueue('step')", &[])
        .await
        .unwrap()
        .get(0);
    let seen = "select count(*) from ops.runs r where run_id = $1 or exists (select from ops.run_steps s where s.run_id = r.run_id)";
    assert_eq!(
        service
            .query_one(seen, &[&started])
            .await
            .unwrap()
            .get::<_, i64>(0),
        2
    );
}
