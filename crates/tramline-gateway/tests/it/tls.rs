//! TLS: both protocols, certificates that change, clients that do not speak it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::{TlsConnector, rustls};
use tramline_gateway::{Gateway, Guard, GuardAuth, StartError, TlsFiles, empty};

use crate::support::*;

/// Writes a new certificate for `localhost`; the certificate.
fn renew(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

fn files(folder: &Path) -> TlsFiles {
    TlsFiles {
        cert: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    }
}

/// A gateway with a certificate of its own, for tests that do not look at it.
pub async fn gate_with_certificate(folder: &Path) -> Gate {
    renew(folder);
    secure(folder).await
}

async fn secure(folder: &Path) -> Gate {
    gate(|config| {
        config.tls = Some(files(folder));
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
    })
    .await
}

async fn connect(
    gate: &Gate,
    trusted: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(gate.handle.local_addr()).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn both_protocols_are_served_as_the_client_prefers() {
    let folder = tempfile::tempdir().unwrap();
    let cert = renew(folder.path());
    let gate = secure(folder.path()).await;
    for (protocols, version) in [
        (vec![], "HTTP/1.1"),
        (vec!["http/1.1"], "HTTP/1.1"),
        (vec!["h2", "http/1.1"], "HTTP/2.0"),
        (vec!["h2"], "HTTP/2.0"),
    ] {
        let stream = connect(&gate, &cert, &protocols).await.unwrap();
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        assert_eq!(is_h2, version == "HTTP/2.0", "{protocols:?}");
        let request = Request::builder()
            .uri("https://localhost/functions/v1/echo")
            .header("host", "localhost")
            .body(empty())
            .unwrap();
        let io = TokioIo::new(stream);
        let response = if is_h2 {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(format!("{:?}", response.version()), version);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(seen["headers"]["x-forwarded-proto"][0], "https");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let old = renew(folder.path());
    let gate = secure(folder.path()).await;
    assert!(connect(&gate, &old, &[]).await.is_ok());
    // Half of a renewal, which may well be seen, changes nothing.
    std::fs::write(folder.path().join("cert.pem"), "not yet written").unwrap();
    assert!(connect(&gate, &old, &[]).await.is_ok());
    let new = renew(folder.path());
    timeout(PATIENCE, async {
        while connect(&gate, &new, &[]).await.is_err() {}
    })
    .await
    .expect("the new certificate is served");
    assert!(connect(&gate, &old, &[]).await.is_err());
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls() {
    let folder = tempfile::tempdir().unwrap();
    let gate = gate_with_certificate(folder.path()).await;
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let _ = timeout(PATIENCE, socket.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("TLS_REQUIRED"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    renew(folder.path());
    let gate = gate(|config| {
        config.tls = Some(files(folder.path()));
        config.limits.header_timeout = Duration::from_millis(100);
    })
    .await;
    for start in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
        socket.write_all(start).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.is_empty());
    }
}

#[tokio::test]
async fn files_that_do_not_fit_are_named_at_the_start() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    renew(one.path());
    renew(other.path());
    std::fs::write(one.path().join("empty.pem"), "").unwrap();
    let cases = [
        (
            one.path().join("cert.pem"),
            one.path().join("missing.pem"),
            "missing.pem",
        ),
        (
            one.path().join("empty.pem"),
            one.path().join("key.pem"),
            "empty.pem",
        ),
        (
            one.path().join("key.pem"),
            one.path().join("key.pem"),
            "there is no certificate",
        ),
        (
            one.path().join("cert.pem"),
            one.path().join("cert.pem"),
            "cert.pem",
        ),
        (
            one.path().join("cert.pem"),
            other.path().join("key.pem"),
            "key.pem",
        ),
    ];
    for (cert, key, named) in cases {
        let mut config = config(Default::default(), Default::default());
        config.tls = Some(TlsFiles { cert, key });
        let error = Gateway::start(config).await.err().expect(named);
        assert!(matches!(error, StartError::Tls(_)), "{error:?}");
        assert!(error.to_string().contains(named), "{error}");
    }
    // Keeps the provider's name in one place for both ends.
    let _: rustls::crypto::CryptoProvider = ring::default_provider();
}
