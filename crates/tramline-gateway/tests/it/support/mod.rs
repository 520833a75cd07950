//! A gateway with scripted neighbours, and a small client.

mod answers;
mod control;
mod functions;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::net::TcpStream;
use tramline_gateway::*;
use uuid::Uuid;

pub use answers::Answers;
pub use control::{ScriptedControl, sample_run};
pub use functions::{ScriptedFunctions, echo};

pub const SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";
pub const INTERNAL: &str = "internal-secret-known-to-nobody-outside-this-process";
pub const PUBLISHABLE: &str = "sb_publishable_test";
pub const SECRET_KEY: &str = "sb_secret_test";
pub const CRON: &str = "cron-secret";
pub const USER: &str = "8f14e45f-ceea-467f-a0e6-000000000001";
/// The run that the scripted control attributes to [`USER`].
pub const OWN_RUN: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
/// A run of somebody else.
pub const OTHER_RUN: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002);
/// The only run that is in flight.
pub const LIVE_RUN: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0003);
/// Longest a test waits for anything before it fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the fetch wrapper of the function `caller` sends while it works for [`LIVE_RUN`].
pub fn live_call() -> String {
    let origin = CallOrigin {
        function: "caller".into(),
        run: Some(LIVE_RUN),
    };
    CallTokens::new(&Secret::new(SECRET))
        .unwrap()
        .issue(&origin, 1_000)
}

pub fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Signs `header.payload` texts that are already encoded.
pub fn sign_parts(header: &str, payload: &str, secret: &str) -> String {
    let message = format!("{header}.{payload}");
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(message.as_bytes());
    format!(
        "{message}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

pub fn token(claims: &Value) -> String {
    sign_parts(
        &encode(&json!({ "alg": "HS256", "typ": "JWT" })),
        &encode(claims),
        SECRET,
    )
}

pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

pub fn role_token(role: &str) -> String {
    token(&json!({ "iss": "supabase-demo", "role": role, "exp": 4_000_000_000_u64 }))
}

pub fn user_token() -> String {
    token(
        &json!({ "sub": USER, "role": "authenticated", "aud": "authenticated", "exp": now() + 600,
                   "email": "a@example.com" }),
    )
}

/// A running gateway.
pub struct Gate {
    pub handle: GatewayHandle,
    pub functions: Arc<ScriptedFunctions>,
    pub control: Arc<ScriptedControl>,
}

/// Starts a gateway with the function `echo` (guard: token) and the given changes of its configuration.
pub async fn gate(change: impl FnOnce(&mut GatewayConfig)) -> Gate {
    let functions = Arc::new(ScriptedFunctions::default());
    functions.on("echo", echo);
    let control = Arc::new(ScriptedControl::default());
    let mut config = config(Arc::clone(&functions), Arc::clone(&control));
    change(&mut config);
    let handle = Gateway::start(config).await.unwrap();
    Gate {
        handle,
        functions,
        control,
    }
}

pub fn config(functions: Arc<ScriptedFunctions>, control: Arc<ScriptedControl>) -> GatewayConfig {
    let keys = Keys {
        jwt_secret: SECRET.into(),
        anon_token: role_token("anon").into(),
        service_role_token: role_token("service_role").into(),
        publishable_keys: vec![PUBLISHABLE.into()],
        secret_keys: vec![SECRET_KEY.into()],
    };
    let mut config = GatewayConfig::new(keys, INTERNAL.into(), functions, control);
    config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.gate_store = Some(Arc::new(crate::doors::MemoryStore::default()));
    config.cron_secrets = vec![CRON.into(), "next-cron-secret".into()];
    config
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Gate {
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.handle.local_addr().to_string())
    }

    /// Sends one request on a connection of its own.
    pub async fn send(&self, request: Request<Body>) -> Reply {
        tokio::time::timeout(PATIENCE, self.send_patiently(request))
            .await
            .expect("an answer in time")
    }

    async fn send_patiently(&self, request: Request<Body>) -> Reply {
        let response = self.open(request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let reply = Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        };
        let id = reply.header("x-request-id").expect("every answer has an id");
        Uuid::parse_str(id).expect("the id is a UUID");
        reply
    }

    /// Sends one request and leaves the body of the answer unread.
    pub async fn open(&self, request: Request<Body>) -> Response<hyper::body::Incoming> {
        let stream = TcpStream::connect(self.handle.local_addr()).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.unwrap()
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(
            with_headers(self.request("GET", path), headers)
                .body(empty())
                .unwrap(),
        )
        .await
    }

    pub async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let request = with_headers(self.request(method, path), headers);
        self.send(request.body(full(body.to_owned())).unwrap()).await
    }

    /// As the service role.
    pub async fn service(&self, method: &str, path: &str, body: &Value) -> Reply {
        let bearer = format!("Bearer {}", role_token("service_role"));
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.call(
            method,
            path,
            &[("authorization", &bearer), ("content-type", "application/json")],
            &body,
        )
        .await
    }
}

pub fn with_headers(mut request: http::request::Builder, headers: &[(&str, &str)]) -> http::request::Builder {
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
}

/// `<name> <number>` of the thread that asks.
pub fn this_thread() -> String {
    let thread = std::thread::current();
    let task = std::fs::read_link("/proc/thread-self").unwrap();
    let number = task.file_name().unwrap().to_str().unwrap();
    format!("{} {number}", thread.name().unwrap_or("-"))
}
