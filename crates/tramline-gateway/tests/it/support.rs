//! A gateway with scripted neighbours, and a small client.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::net::TcpStream;
use tramline_core::status::RunStatus;
use tramline_gateway::control::*;
use tramline_gateway::*;
use uuid::Uuid;

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

pub const LIVE_RUN: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0003);
/// Longest a test waits for anything before it fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(20);

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

type Script =
    dyn Fn(Request<Body>, CallContext) -> BoxFuture<'static, Result<Response<Body>, CallError>> + Send + Sync;

#[derive(Default)]
pub struct ScriptedFunctions {
    scripts: Mutex<HashMap<String, Arc<Script>>>,
    pub logs: Mutex<Vec<LogLine>>,
    pub live: Mutex<Vec<Followed>>,
}

impl ScriptedFunctions {
    pub fn on<F, R>(&self, name: &str, script: F)
    where
        F: Fn(Request<Body>, CallContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response<Body>, CallError>> + Send + 'static,
    {
        let script: Arc<Script> = Arc::new(move |request, context| Box::pin(script(request, context)));
        self.scripts.lock().unwrap().insert(name.to_owned(), script);
    }
}

impl Functions for ScriptedFunctions {
    fn exists(&self, name: &str) -> bool {
        self.scripts.lock().unwrap().contains_key(name)
    }

    fn call(
        &self,
        name: &str,
        request: Request<Body>,
        context: CallContext,
    ) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
        let script = self.scripts.lock().unwrap().get(name).cloned();
        Box::pin(async move {
            match script {
                Some(script) => script(request, context).await,
                None => Err(CallError::NotFound),
            }
        })
    }

    fn list(&self) -> Vec<FunctionInfo> {
        let mut names: Vec<String> = self.scripts.lock().unwrap().keys().cloned().collect();
        names.sort();
        names
            .into_iter()
            .map(|name| FunctionInfo {
                name,
                state: "ready",
                reason: None,
                version: Some("abc".into()),
                deployed: None,
                dependencies: Vec::new(),
            })
            .collect()
    }

    fn recent_logs(&self, function: &str, limit: usize) -> Vec<LogLine> {
        let logs = self.logs.lock().unwrap();
        let own: Vec<LogLine> = logs
            .iter()
            .filter(|line| line.function == function)
            .cloned()
            .collect();
        own[own.len().saturating_sub(limit)..].to_vec()
    }

    fn follow_logs(&self) -> BoxStream<'static, Followed> {
        stream::iter(self.live.lock().unwrap().clone()).boxed()
    }
}

/// Answers what it saw: method, path with query, headers, body.
pub async fn echo(request: Request<Body>, context: CallContext) -> Result<Response<Body>, CallError> {
    let (parts, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return Err(CallError::WorkerError {
                message: error.to_string(),
            });
        }
    };
    let headers: BTreeMap<String, Vec<String>> = parts
        .headers
        .keys()
        .map(|name| {
            let values = parts.headers.get_all(name).iter();
            (
                name.to_string(),
                values
                    .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
                    .collect(),
            )
        })
        .collect();
    let seen = json!({
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
        "run_id": context.run_id,
        "request_id": context.request_id,
    });
    Ok(Response::builder()
        .header("content-type", "application/json")
        .body(full(seen.to_string()))
        .unwrap())
}

/// Control that remembers what it was asked and answers as told.
#[derive(Default)]
pub struct ScriptedControl {
    pub started: Mutex<Vec<NewRun>>,
    pub filters: Mutex<Vec<RunFilter>>,
    pub changes: Mutex<Vec<(Uuid, RunVerb, Option<String>, Actor)>>,
    pub bulks: Mutex<Vec<(BulkRequest, Actor)>>,
    pub redriven: Mutex<Vec<(Uuid, Option<Value>, Option<String>, Actor)>>,
    pub letter_filters: Mutex<Vec<DeadLetterFilter>>,
    pub fail_with: Mutex<Option<ControlError>>,
    pub existing: Mutex<bool>,
    pub wait_status: Mutex<Option<RunStatus>>,
    /// What workers asked for, as text.
    pub workers: Mutex<Vec<String>>,
    /// Answers to claims, one after the other; nothing when there are none left.
    pub claims: Mutex<VecDeque<Vec<Value>>>,
}

impl ScriptedControl {
    pub fn fail(&self, error: ControlError) {
        *self.fail_with.lock().unwrap() = Some(error);
    }

    pub fn answer<T: Send + 'static>(&self, value: T) -> Answer<T> {
        let failure = self.fail_with.lock().unwrap().clone();
        Box::pin(async move { failure.map_or(Ok(value), Err) })
    }
}

pub fn sample_run(run_id: Uuid, status: RunStatus) -> Run {
    Run {
        run_id,
        kind: "function".into(),
        target: "hello".into(),
        version: None,
        executor: "engine".into(),
        status,
        queue: None,
        priority: None,
        input: json!({}),
        output: None,
        error: None,
        error_step: None,
        correlation_id: None,
        concurrency_key: None,
        source: "api".into(),
        created_by: (run_id == OWN_RUN).then(|| USER.to_owned()),
        parent_run_id: None,
        root_run_id: None,
        attempt: 1,
        generation: 1,
        queued_at: Some(1_700_000_000_000),
        scheduled_at: None,
        started_at: None,
        completed_at: None,
        metadata: json!({}),
    }
}

fn sample_workflow(name: &str) -> WorkflowVersion {
    WorkflowVersion {
        name: name.to_owned(),
        version: 1,
        status: "published".into(),
        checksum: "c".into(),
        description: None,
        required_inputs: vec![],
        created_at: None,
        definition: None,
    }
}

impl Control for ScriptedControl {
    fn start_runs(&self, runs: Vec<NewRun>, _: Actor) -> Answer<Vec<Result<Started, ControlError>>> {
        let existing = *self.existing.lock().unwrap();
        let started = runs
            .iter()
            .map(|run| match run.target.as_str() {
                "refused" => Err(ControlError::UnknownTarget {
                    target: run.target.clone(),
                }),
                _ => Ok(Started {
                    run_id: run.run_id.unwrap_or(OWN_RUN),
                    status: RunStatus::Queued,
                    existing,
                }),
            })
            .collect();
        self.started.lock().unwrap().extend(runs);
        self.answer(started)
    }

    fn wait_run(&self, run_id: Uuid, _: Duration) -> Answer<Run> {
        let status = self.wait_status.lock().unwrap().unwrap_or(RunStatus::Completed);
        self.answer(sample_run(run_id, status))
    }

    fn bulk_runs(&self, bulk: BulkRequest, actor: Actor) -> Answer<Value> {
        self.bulks.lock().unwrap().push((bulk, actor));
        self.answer(json!({ "matched": 1 }))
    }

    fn list_dead_letters(&self, filter: DeadLetterFilter) -> Answer<Vec<Value>> {
        self.letter_filters.lock().unwrap().push(filter);
        self.answer(vec![json!({ "run_id": OWN_RUN })])
    }

    fn dead_letters_of(&self, run_id: Uuid) -> Answer<Vec<Value>> {
        let letters = (run_id == OWN_RUN).then(|| json!({ "run_id": run_id }));
        self.answer(letters.into_iter().collect())
    }

    fn redrive(
        &self,
        run_id: Uuid,
        input: Option<Value>,
        reason: Option<String>,
        actor: Actor,
    ) -> Answer<Run> {
        self.redriven.lock().unwrap().push((run_id, input, reason, actor));
        self.answer(sample_run(run_id, RunStatus::Queued))
    }

    fn redrive_many(&self, bulk: BulkRequest, actor: Actor) -> Answer<Value> {
        self.bulk_runs(bulk, actor)
    }

    fn why_run(&self, run_id: Uuid) -> Answer<Why> {
        let reason = WhyReason {
            code: "sleep".into(),
            since: Some(1_700_000_000_000),
            sentence: "it sleeps".into(),
            detail: json!({ "step": "nap" }),
        };
        self.answer(Why {
            subject: run_id.to_string(),
            status: Some(RunStatus::Waiting),
            reasons: vec![reason],
        })
    }

    fn why_queue(&self, queue: String) -> Answer<Why> {
        self.answer(Why {
            subject: queue,
            status: None,
            reasons: Vec::new(),
        })
    }

    fn list_runs(&self, filter: RunFilter) -> Answer<Vec<Run>> {
        self.filters.lock().unwrap().push(filter);
        self.answer(vec![sample_run(OWN_RUN, RunStatus::Completed)])
    }

    fn get_run(&self, run_id: Uuid) -> Answer<Run> {
        self.answer(sample_run(run_id, RunStatus::Running))
    }

    fn run_steps(&self, _: Uuid) -> Answer<Vec<StepAttempt>> {
        self.answer(vec![])
    }

    fn run_events(&self, _: Uuid) -> Answer<Vec<RunEvent>> {
        self.answer(vec![])
    }

    fn change_run(&self, run_id: Uuid, verb: RunVerb, reason: Option<String>, actor: Actor) -> Answer<Run> {
        self.changes.lock().unwrap().push((run_id, verb, reason, actor));
        self.answer(sample_run(run_id, RunStatus::Cancelled))
    }

    fn list_workflows(&self) -> Answer<Vec<WorkflowVersion>> {
        self.answer(vec![sample_workflow("w")])
    }

    fn get_workflow(&self, name: String, version: Option<i64>) -> Answer<WorkflowVersion> {
        self.answer(WorkflowVersion {
            version: version.unwrap_or(1),
            ..sample_workflow(&name)
        })
    }

    fn publish_workflow(&self, definition: Value, _: Actor) -> Answer<Published> {
        let name = definition["name"].as_str().unwrap_or_default().to_owned();
        self.answer(Published {
            workflow: sample_workflow(&name),
            existing: false,
        })
    }

    fn validate_workflow(&self, _: Value) -> Answer<Checked> {
        self.answer(Checked {
            valid: true,
            problems: vec![],
            required_inputs: vec!["a".into()],
        })
    }

    fn list_schedules(&self) -> Answer<Vec<Schedule>> {
        self.answer(vec![])
    }

    fn schedule_periods(&self, _: String, _: u16) -> Answer<Vec<Period>> {
        self.answer(vec![])
    }

    fn get_schedule(&self, name: String) -> Answer<Schedule> {
        self.answer(sample_schedule(&name))
    }

    fn put_schedule(&self, name: String, document: Value, _: Actor) -> Answer<StoredSchedule> {
        let schedule = Schedule {
            cron: document["cron"].as_str().map(str::to_owned),
            ..sample_schedule(&name)
        };
        self.answer(StoredSchedule {
            schedule,
            changed: true,
        })
    }

    fn delete_schedule(&self, _: String) -> Answer<()> {
        self.answer(())
    }

    fn trigger_schedule(&self, name: String, period: Option<Millis>, _: Actor) -> Answer<ScheduleOutcome> {
        self.answer(ScheduleOutcome {
            name: format!("{name} {period:?}"),
            enabled: true,
            run_id: None,
        })
    }

    fn backfill_schedule(&self, name: String, span: Backfill, _: Actor) -> Answer<Backfilled> {
        self.answer(Backfilled {
            schedule: name,
            dry_run: span.dry_run,
            started: 1,
            periods: vec![BackfillPeriod {
                due_at: Some(span.from),
                start: true,
                run_id: None,
            }],
        })
    }

    fn retention(&self, apply: bool) -> Answer<Retention> {
        self.answer(Retention {
            settings: vec![],
            days: vec![],
            dropped: if apply { vec!["2026-01-01".into()] } else { vec![] },
            busy: vec![],
            removed: 0,
        })
    }

    fn list_calendars(&self) -> Answer<Vec<NamedCalendar>> {
        self.answer(vec![])
    }

    fn put_calendar(&self, name: String, _: Value) -> Answer<NamedCalendar> {
        self.answer(NamedCalendar {
            name,
            exclude: vec![],
            timezone: None,
            source: "api".into(),
            problem: None,
        })
    }

    fn delete_calendar(&self, _: String) -> Answer<()> {
        self.answer(())
    }

    fn change_schedule(&self, name: String, verb: ScheduleVerb, _: Actor) -> Answer<ScheduleOutcome> {
        self.answer(ScheduleOutcome {
            name,
            enabled: verb != ScheduleVerb::Pause,
            run_id: None,
        })
    }

    fn list_queues(&self, name: Option<String>) -> Answer<Vec<Queue>> {
        self.answer(vec![queue(name.unwrap_or_else(|| "default".into()), &json!({}))])
    }

    fn set_queue(&self, name: String, settings: Value, _: SetQueue) -> Answer<Queue> {
        self.answer(queue(name, &settings))
    }

    fn status(&self) -> Answer<NodeStatus> {
        self.answer(NodeStatus {
            version: "0.1.0".into(),
            node: "n".into(),
            shards_owned: vec![0, 1],
            shard_count: 2,
            uptime_ms: 5,
            counts: BTreeMap::new(),
        })
    }
}

fn sample_schedule(name: &str) -> Schedule {
    Schedule {
        name: name.into(),
        cron: Some("@daily".into()),
        every: None,
        anchor: None,
        timezone: "UTC".into(),
        target: "echo".into(),
        input: Value::Null,
        enabled: true,
        jitter: "0s".into(),
        start_at: None,
        end_at: None,
        exclude: vec![],
        overlap: "allow".into(),
        catch_up: "skip".into(),
        catch_up_max: 100,
        late_after: "5m".into(),
        source: "api".into(),
        problem: None,
        next_due_at: Some(0),
        last_due_at: None,
    }
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

fn queue(name: String, settings: &Value) -> Queue {
    Queue {
        name,
        mode: "engine".into(),
        paused: settings["paused"] == true,
        concurrency: settings["concurrency"]
            .as_i64()
            .and_then(|n| i32::try_from(n).ok()),
        rate: None,
        fifo: false,
        claims_max: None,
        description: None,
        waiting: 2,
        running: 1,
    }
}
