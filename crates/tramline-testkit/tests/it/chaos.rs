//! The proxy that fails on demand.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tramline_testkit::{ChaosProxy, Reply, TestDb, connect, empty_db};

async fn proxied() -> (TestDb, ChaosProxy) {
    let db = empty_db().await;
    let proxy = ChaosProxy::start(db.url()).await;
    db.connect()
        .await
        .batch_execute("create table t(n int)")
        .await
        .unwrap();
    (db, proxy)
}

async fn rows(db: &TestDb) -> i64 {
    db.connect()
        .await
        .query_one("select count(*) from t", &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn broken_connections_end_and_new_ones_work_after_it_is_restored() {
    let (_db, proxy) = proxied().await;
    let client = connect(proxy.url()).await;
    client.simple_query("select 1").await.unwrap();
    proxy.break_connections();
    assert!(client.simple_query("select 1").await.is_err());
    assert!(
        tokio_postgres::connect(proxy.url(), tokio_postgres::NoTls)
            .await
            .is_err()
    );
    proxy.restore();
    assert!(client.simple_query("select 1").await.is_err());
    connect(proxy.url()).await.simple_query("select 1").await.unwrap();
}

#[tokio::test]
async fn a_stalled_connection_goes_on_where_it_stopped() {
    let (_db, proxy) = proxied().await;
    let client = connect(proxy.url()).await;
    proxy.stall();
    let query = client.simple_query("select 1");
    tokio::pin!(query);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), &mut query)
            .await
            .is_err()
    );
    proxy.restore();
    query.await.unwrap();
}

#[tokio::test]
async fn a_commit_takes_effect_although_its_answer_is_lost() {
    let (db, proxy) = proxied().await;
    let client = connect(proxy.url()).await;
    proxy.cut_reply(Reply::Command("COMMIT"), 2);
    for n in 0..2 {
        client.batch_execute("begin").await.unwrap();
        client.execute("insert into t values ($1)", &[&n]).await.unwrap();
        assert_eq!(
            client.batch_execute("commit").await.is_ok(),
            n == 0,
            "the second answer is lost"
        );
    }
    proxy.wait_for_cuts(1).await;
    assert_eq!(rows(&db).await, 2);
    // once only
    connect(proxy.url())
        .await
        .batch_execute("begin; commit")
        .await
        .unwrap();
    assert_eq!(proxy.cuts_done(), 1);
}

#[tokio::test]
async fn single_statements_lose_their_answers_too() {
    let (db, proxy) = proxied().await;
    for (reply, inserted) in [
        (Reply::Command("INSERT"), 1),
        (Reply::Command(""), 2),
        (Reply::Ready, 3),
    ] {
        let client = connect(proxy.url()).await;
        proxy.cut_reply(reply, 1);
        assert!(
            client.simple_query("insert into t values (1)").await.is_err(),
            "{reply:?}"
        );
        assert_eq!(rows(&db).await, inserted, "{reply:?}");
    }
}

#[tokio::test]
async fn large_and_delayed_answers_arrive_whole() {
    let (_db, proxy) = proxied().await;
    proxy.set_delay(Duration::from_millis(1));
    proxy.cut_reply(Reply::Command("COMMIT"), 1);
    let client = connect(proxy.url()).await;
    // the bytes of the text look like a reply; it must be counted by message, not by what it holds
    let sql = "select repeat(E'C\\x01\\x01\\x01\\x0bCOMMIT', 20000) from generate_series(1, 5)";
    let rows = client.query(sql, &[]).await.unwrap();
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().all(|row| row.get::<_, &str>(0).len() == 20_000 * 11));
    assert_eq!(proxy.cuts_done(), 0);
}

#[tokio::test]
async fn a_client_that_asks_for_encryption_is_answered_no() {
    let (_db, proxy) = proxied().await;
    let address = proxy.url().split_once('@').unwrap().1.split_once('/').unwrap().0;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])
        .await
        .unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'N');
}
