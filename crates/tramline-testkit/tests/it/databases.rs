//! Databases and servers for tests.

use std::sync::atomic::{AtomicU32, Ordering};

use tramline_testkit::{TestCluster, connect, empty_db, kill_backend, test_db, test_db_with};

use crate::project::{eventually, process_exists};

#[tokio::test]
async fn each_test_database_starts_as_a_copy_of_a_template_filled_once() {
    static FILLED: AtomicU32 = AtomicU32::new(0);
    let make = || {
        test_db_with("filled_once", async |url| {
            FILLED.fetch_add(1, Ordering::Relaxed);
            Ok(connect(&url)
                .await
                .batch_execute("create table t as select 1 as n")
                .await?)
        })
    };
    let (one, two, three) = tokio::join!(make(), make(), make());
    assert_eq!(FILLED.load(Ordering::Relaxed), 1);
    one.connect().await.batch_execute("delete from t").await.unwrap();
    for (db, count) in [(&one, 0_i64), (&two, 1), (&three, 1)] {
        let rows: i64 = db
            .connect()
            .await
            .query_one("select count(*) from t", &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(rows, count, "{}", db.name());
    }
}

#[tokio::test]
async fn a_test_database_has_the_schema_of_this_build() {
    // from another task, as services use it
    let db = tokio::spawn(test_db()).await.unwrap();
    let report = tramline_store::migrate(db.url()).await.unwrap();
    assert!(report.applied.is_empty() && report.version > 0, "{report:?}");
}

#[tokio::test]
async fn dropped_test_databases_go_with_their_sessions() {
    let (kept, dropped) = (empty_db().await, empty_db().await);
    let name = dropped.name().to_owned();
    let _session = dropped.connect().await;
    drop(dropped);
    let client = kept.connect().await;
    eventually("the database is gone", async || {
        // they are dropped in groups
        drop(empty_db().await);
        let sql = "select 1 from pg_database where datname = $1";
        client.query_opt(sql, &[&name]).await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn a_killed_backend_ends_its_session_only() {
    let db = empty_db().await;
    let (victim, other) = (db.connect().await, db.connect().await);
    let pid: i32 = victim
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    assert!(kill_backend(db.url(), pid).await);
    assert!(victim.simple_query("select 1").await.is_err());
    assert!(other.simple_query("select 1").await.is_ok());
    assert!(!kill_backend(db.url(), i32::MAX).await);
    assert_eq!(db.kill_backends().await, 1);
    assert!(other.simple_query("select 1").await.is_err());
}

#[tokio::test]
async fn a_private_server_comes_back_after_a_crash_with_what_was_committed() {
    let mut cluster = TestCluster::private().await;
    let (url, first) = (cluster.url("postgres"), cluster.pid());
    let client = connect(&url).await;
    client
        .batch_execute("create table t(n int); insert into t values (1)")
        .await
        .unwrap();
    client
        .batch_execute("begin; insert into t values (2)")
        .await
        .unwrap();
    cluster.stop_immediate().await;
    assert!(!process_exists(first));
    assert!(client.simple_query("commit").await.is_err());

    cluster.start().await;
    let rows: i64 = connect(&url)
        .await
        .query_one("select sum(n) from t", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(rows, 1);
    let last = cluster.pid();
    drop(cluster);
    eventually("the server has ended", async || !process_exists(last)).await;
}

/// Where a file system can be mounted, which takes root.
#[tokio::test]
async fn a_server_without_room_refuses_what_has_to_grow_and_goes_on_when_there_is_some() {
    let mut cluster = TestCluster::with_own_disk().await;
    let url = cluster.url("postgres");
    let client = connect(&url).await;
    let make = "create table kept as select 1 as n";
    client.batch_execute(make).await.unwrap();
    if !cluster.fill_disk() {
        return;
    }
    // more than what the file system has left in pages of the table
    let grow = "create table grown as select repeat('x', 1000) as text from generate_series(1, 100000)";
    let refused = client.batch_execute(grow).await.unwrap_err();
    assert!(
        refused.is_closed() || refused.code().is_some_and(|code| code.code() == "53100"),
        "{refused:?}"
    );
    cluster.make_room();
    cluster.start().await;
    eventually("the server answers", async || {
        let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await else {
            return false;
        };
        tokio::spawn(connection);
        client.batch_execute(grow).await.is_ok()
    })
    .await;
    let kept = connect(&url).await.query_one("select n from kept", &[]).await;
    assert_eq!(kept.unwrap().get::<_, i32>(0), 1);
}
