//! One node takes over from another under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tramline_gateway::{Body, Gateway, GatewayHandle, Guard, GuardAuth, empty};

use crate::support::*;

/// Clients, each with one kept connection.
const CLIENTS: usize = 8;
/// Requests that each client makes at least after the new node stands alone.
const AFTER: usize = 50;

async fn node(listen: Option<std::net::SocketAddr>, name: &'static str) -> GatewayHandle {
    let functions = Arc::new(ScriptedFunctions::default());
    functions.on("who", move |_, _| async move {
        // Some of them are in flight at any moment.
        tokio::task::yield_now().await;
        Ok(http::Response::new(tramline_gateway::full(name)))
    });
    let mut config = config(functions, Arc::default());
    if let Some(listen) = listen {
        config.listen = listen;
    }
    config.shared_port = true;
    config.guards.insert("who".into(), Guard::new(GuardAuth::Public));
    Gateway::start(config).await.unwrap()
}

async fn open(node: &GatewayHandle) -> SendRequest<Body> {
    let stream = TcpStream::connect(node.local_addr()).await.unwrap();
    let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn ask(path: &str) -> Request<Body> {
    Request::get(path).header("host", "x").body(empty()).unwrap()
}

/// One request on a kept connection; the answer's text, and whether the connection is to be left.
async fn who(sender: &mut SendRequest<Body>) -> (String, bool) {
    let response = sender.send_request(ask("/functions/v1/who")).await.unwrap();
    assert_eq!(response.status(), 200);
    let leaves = response
        .headers()
        .get("connection")
        .is_some_and(|value| value == "close");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (String::from_utf8(body.to_vec()).unwrap(), leaves)
}

/// A balancer asks `/readyz` and opens connections only to nodes that are ready; clients leave a connection when told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_request() {
    let old = node(None, "old").await;
    let new = node(None, "new").await;
    let (stopped, answered_by_new) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (old, new) = (old.clone(), new.clone());
            let (stopped, by_new) = (Arc::clone(&stopped), Arc::clone(&answered_by_new));
            tokio::spawn(async move {
                let mut sender = open(&old).await;
                let (mut moved, mut after) = (false, 0);
                while after < AFTER {
                    let (name, leaves) = who(&mut sender).await;
                    assert_eq!(name == "new", moved);
                    if stopped.load(Ordering::SeqCst) {
                        after += 1;
                    }
                    if leaves {
                        let ready = open(&old).await.send_request(ask("/readyz")).await.unwrap();
                        assert_eq!(ready.status(), 503, "it says that it is leaving");
                        sender = open(&new).await;
                        moved = true;
                        by_new.fetch_add(1, Ordering::SeqCst);
                    }
                    sender.ready().await.unwrap();
                }
            })
        })
        .collect();
    old.leave();
    // The time that a balancer needs is here the time until all clients have gone.
    timeout(PATIENCE, async {
        while answered_by_new.load(Ordering::SeqCst) < CLIENTS {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    old.stop(PATIENCE).await;
    stopped.store(true, Ordering::SeqCst);
    assert_eq!(old.connections(), 0);
    for client in clients {
        timeout(PATIENCE, client).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn two_nodes_share_a_port_and_one_can_go() {
    let old = node(None, "old").await;
    let new = node(Some(old.local_addr()), "new").await;
    old.stop(PATIENCE).await;
    for _ in 0..5 {
        assert_eq!(who(&mut open(&new).await).await.0, "new");
    }
}

#[tokio::test]
async fn a_stop_waits_for_the_balancers_and_serves_meanwhile() {
    let functions = Arc::new(ScriptedFunctions::default());
    functions.on("who", |_, _| async {
        Ok(http::Response::new(tramline_gateway::full("still")))
    });
    let mut config = config(functions, Arc::default());
    config.limits.drain_delay = PATIENCE;
    config.guards.insert("who".into(), Guard::new(GuardAuth::Public));
    let node = Gateway::start(config).await.unwrap();
    let stopping = node.clone();
    // A drain shorter than the delay ends it: nobody waits longer than asked.
    let stopping = tokio::spawn(async move { stopping.stop(Duration::from_secs(2)).await });
    let leaving = async {
        loop {
            let ready = open(&node).await.send_request(ask("/readyz")).await.unwrap();
            if ready.status() == 503 {
                return ready.into_body().collect().await.unwrap().to_bytes();
            }
        }
    };
    let reasons = timeout(PATIENCE, leaving).await.unwrap();
    assert!(String::from_utf8_lossy(&reasons).contains("stopping"));
    assert_eq!(who(&mut open(&node).await).await, ("still".to_owned(), true));
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
}
