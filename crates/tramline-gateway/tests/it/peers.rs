//! Who is in front: trusted proxies, their headers and the PROXY protocol.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tramline_gateway::{ConfigError, Gateway, Guard, GuardAuth, StartError, TrustedProxies};

use crate::support::*;

const REQUEST: &str = "GET /functions/v1/echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

async fn behind(proxies: &[&str], proxy_protocol: bool) -> Gate {
    gate(|config| {
        config.trusted_proxies = TrustedProxies::parse(proxies.iter().copied()).unwrap();
        config.proxy_protocol = proxy_protocol;
        config.limits.connections_per_ip_max = 1;
        config.limits.header_timeout = Duration::from_millis(500);
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
    })
    .await
}

async fn connect(gate: &Gate, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::from(from), 0))).unwrap();
    socket.connect(gate.handle.local_addr()).await.unwrap()
}

/// What comes back for these bytes, until the end.
async fn exchange(gate: &Gate, from: [u8; 4], bytes: &[u8]) -> String {
    let mut socket = connect(gate, from).await;
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is a way of closing as well.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer))
        .await
        .expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

fn headers_in(answer: &str) -> Value {
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let seen: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    seen["headers"].clone()
}

fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
    header.extend(addresses);
    header
}

#[tokio::test]
async fn only_a_trusted_proxy_is_believed() {
    let told = [
        ("x-forwarded-for", "6.6.6.6, 203.0.113.7, 10.1.2.3"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "app.example"),
    ];
    let trusting = behind(&["127.0.0.0/8", "10.0.0.0/8"], false).await;
    let headers = trusting.get("/functions/v1/echo", &told).await.json()["headers"].clone();
    assert_eq!(
        headers["x-forwarded-for"],
        json!(["6.6.6.6, 203.0.113.7, 10.1.2.3, 127.0.0.1"])
    );
    assert_eq!(
        headers["x-real-ip"],
        json!(["203.0.113.7"]),
        "the nearest that is no proxy"
    );
    assert_eq!(headers["x-forwarded-proto"], json!(["https"]));
    assert_eq!(headers["x-forwarded-host"], json!(["app.example"]));
    let wary = behind(&["10.0.0.0/8"], false).await;
    let headers = wary.get("/functions/v1/echo", &told).await.json()["headers"].clone();
    assert_eq!(headers["x-forwarded-for"], json!(["127.0.0.1"]));
    assert_eq!(headers["x-real-ip"], json!(["127.0.0.1"]));
    assert_eq!(headers["x-forwarded-proto"], json!(["http"]));
}

#[test]
fn only_addresses_and_networks_can_be_trusted() {
    assert!(TrustedProxies::parse(["10.0.0.1", "fd00::/8", "10.0.0.0/8"]).is_ok());
    for text in ["", "any", "10.0.0.0/33", "proxy.example", "10.0.0.1:80"] {
        let error = TrustedProxies::parse([text]).unwrap_err().to_string();
        assert!(error.contains(&format!("{text:?}")), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_may_hold_more_connections_than_a_client() {
    let gate = behind(&["127.0.0.1"], false).await;
    let _one = connect(&gate, [127, 0, 0, 1]).await;
    let answer = exchange(&gate, [127, 0, 0, 1], REQUEST.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn the_proxy_protocol_names_the_client() {
    let gate = behind(&["127.0.0.1"], true).await;
    let v2_ipv4 = v2(
        0x21,
        0x11,
        &[198, 51, 100, 9, 127, 0, 0, 1, 0xd4, 0x31, 0, 80, 0x04, 0, 1, 0],
    );
    let mut v2_ipv6 = vec![0; 36];
    v2_ipv6[0..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v2_ipv6[15] = 7;
    for (header, client) in [
        (
            b"PROXY TCP4 203.0.113.7 127.0.0.1 4000 80\r\n".to_vec(),
            "203.0.113.7",
        ),
        (b"PROXY TCP6 2001:db8::1 ::1 4000 80\r\n".to_vec(), "2001:db8::1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2_ipv4, "198.51.100.9"),
        (v2(0x21, 0x21, &v2_ipv6), "2001:db8::7"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
    ] {
        let mut bytes = header;
        bytes.extend(REQUEST.as_bytes());
        let headers = headers_in(&exchange(&gate, [127, 0, 0, 1], &bytes).await);
        assert_eq!(headers["x-real-ip"], json!([client]));
        assert_eq!(headers["x-forwarded-for"], json!([client]));
    }
}

#[tokio::test]
async fn connections_without_a_good_proxy_header_are_closed_without_an_answer() {
    let gate = behind(&["127.0.0.1"], true).await;
    let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
    for start in [
        REQUEST.as_bytes().to_vec(),
        b"PROXY TCP4 203.0.113.7 127.0.0.1 4000\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::1 127.0.0.1 4000 80\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 127.0.0.1 70000 80\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 127.0.0.1 4000 80 more\r\n".to_vec(),
        b"PROXY TCP9 203.0.113.7 127.0.0.1 4000 80\r\n".to_vec(),
        long.into_bytes(),
        v2(0x31, 0x11, &[0; 12]),
        v2(0x21, 0x11, &[0; 11]),
        v2(0x21, 0x11, &[0; 4_000]),
        b"PROXY TCP4 203.0".to_vec(),
        b"\r\n\r\n\0\r\nQUIT".to_vec(),
        Vec::new(),
    ] {
        let mut bytes = start.clone();
        if start.ends_with(b"\n") || start.len() > 12 {
            bytes.extend(REQUEST.as_bytes());
        }
        let answer = exchange(&gate, [127, 0, 0, 1], &bytes).await;
        assert_eq!(answer, "", "{}", String::from_utf8_lossy(&start));
    }
}

#[tokio::test]
async fn the_header_of_a_stranger_is_no_header() {
    let gate = behind(&["127.0.0.1"], true).await;
    let bytes = format!("PROXY TCP4 203.0.113.7 127.0.0.1 4000 80\r\n{REQUEST}");
    let answer = exchange(&gate, [127, 0, 0, 2], bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    // Another one: each may have one connection, and the first is counted until the server has taken note of its end.
    let headers = headers_in(&exchange(&gate, [127, 0, 0, 3], REQUEST.as_bytes()).await);
    assert_eq!(headers["x-real-ip"], json!(["127.0.0.3"]));
}

#[tokio::test]
async fn a_client_behind_a_proxy_has_its_own_cap() {
    let gate = behind(&["127.0.0.1"], true).await;
    let header = "PROXY TCP4 203.0.113.7 127.0.0.1 4000 80\r\n";
    let keep = REQUEST.replace("connection: close\r\n", "");
    let mut first = connect(&gate, [127, 0, 0, 1]).await;
    first
        .write_all(format!("{header}{keep}").as_bytes())
        .await
        .unwrap();
    first.read_u8().await.unwrap();
    let bytes = format!("{header}{REQUEST}");
    let answer = exchange(&gate, [127, 0, 0, 1], bytes.as_bytes()).await;
    assert!(answer.contains("TOO_MANY_CONNECTIONS"), "{answer}");
    let bytes = bytes.replace("203.0.113.7", "203.0.113.8");
    let answer = exchange(&gate, [127, 0, 0, 1], bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn the_proxy_protocol_of_nobody_is_refused_at_the_start() {
    let mut config = config(Default::default(), Default::default());
    config.proxy_protocol = true;
    assert!(matches!(
        Gateway::start(config).await.err(),
        Some(StartError::Config(ConfigError::ProxyProtocolOfNobody))
    ));
}
