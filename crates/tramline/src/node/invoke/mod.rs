//! The host as the engine sees it: one attempt of a step is one HTTP request to a function.

mod answer;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use tramline_engine::{Answer, Call, Failure, Invoke, Outcome};
use tramline_gateway::{CallOrigin, CallTokens, GuardAuth, Secret, full};
use tramline_host::{CallContext, CallError, Host};
use tramline_store::Db;
use uuid::Uuid;

use super::guards::SharedGuards;

/// How long a call waits that the host had no room for: about as long as a call of a busy function takes.
const FULL_RETRY: Duration = Duration::from_millis(200);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const RUN_ID: HeaderName = HeaderName::from_static("x-tramline-run-id");
const STEP: HeaderName = HeaderName::from_static("x-tramline-step");
const ATTEMPT: HeaderName = HeaderName::from_static("x-tramline-attempt");
const GENERATION: HeaderName = HeaderName::from_static("x-tramline-generation");
const FENCE: HeaderName = HeaderName::from_static("x-tramline-fence");
const PERIOD: HeaderName = HeaderName::from_static("x-tramline-period");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Calls functions through the host.
pub struct HostInvoker {
    host: Host,
    guards: SharedGuards,
    cron_secret: Secret,
    service_role_token: Secret,
    call_tokens: Arc<CallTokens>,
    warm: warm::Warmer,
}

impl HostInvoker {
    pub fn new(
        host: Host,
        guards: SharedGuards,
        cron_secret: Secret,
        service_role_token: Secret,
        call_tokens: Arc<CallTokens>,
        db: Db,
    ) -> Self {
        Self {
            warm: warm::Warmer::start(host.clone(), db),
            host,
            guards,
            cron_secret,
            service_role_token,
            call_tokens,
        }
    }

    fn headers(&self, call: &Call) -> HeaderMap {
        let token = match self.guards.get(&call.function).map(|guard| guard.auth) {
            Some(GuardAuth::Cron) => &self.cron_secret,
            _ => &self.service_role_token,
        };
        let mut bearer = text(&format!("Bearer {}", token.expose()));
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::from_iter([
            (AUTHORIZATION, bearer),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (IDEMPOTENCY_KEY, text(&call.idempotency_key)),
            (RUN_ID, text(&call.run_id.to_string())),
            (ATTEMPT, HeaderValue::from(call.attempt)),
            (GENERATION, HeaderValue::from(call.generation)),
            (FENCE, HeaderValue::from(call.fence)),
        ]);
        if !call.step.is_empty() {
            headers.insert(STEP, text(&call.step));
        }
        if let Some(due) = call
            .period
            .and_then(|due| jiff::Timestamp::from_millisecond(due).ok())
        {
            headers.insert(PERIOD, text(&due.to_string()));
        }
        if let Some(trace) = &call.trace {
            // every attempt is a span of its own; these bits of a random id are never all zero
            let span = Uuid::new_v4().as_u64_pair().1;
            headers.insert(TRACEPARENT, text(&trace.child(span).to_string()));
        }
        headers
    }
}

impl Invoke for HostInvoker {
    fn invoke(&self, call: Call) -> BoxFuture<'static, Answer> {
        let (host, headers) = (self.host.clone(), self.headers(&call));
        let wall_ms = u64::try_from(call.timeout.as_millis()).unwrap_or(u64::MAX);
        let origin = CallOrigin {
            function: call.function.clone(),
            run: Some(call.run_id),
        };
        let call_token = self.call_tokens.issue(&origin, wall_ms);
        async move {
            let mut request = Request::new(full(call.body.text().to_owned()));
            *request.method_mut() = Method::POST;
            *request.headers_mut() = headers;
            match format!("/{}", call.function).parse() {
                Ok(uri) => *request.uri_mut() = uri,
                Err(_) => return unknown(&call.function).into(),
            }
            let context = CallContext {
                run_id: Some(call.run_id.to_string()),
                request_id: Uuid::now_v7().to_string(),
                wall_ms,
                call_token: Some(call_token),
            };
            match host.call(&call.function, request, context).await {
                Ok(response) => answer::outcome(response).await.into(),
                Err(CallError::NotFound) => unknown(&call.function).into(),
                // Nothing was sent: the run waits for room and loses no attempt.
                Err(CallError::Overloaded) => Answer::Full {
                    call: Box::new(call),
                    retry_in: FULL_RETRY,
                },
                Err(error) => Outcome::Failed(Failure::new(code(&error), error.to_string())).into(),
            }
        }
        .boxed()
    }

    fn expect(&self, schedules: Vec<String>) {
        self.warm.expect(schedules);
    }
}

fn unknown(function: &str) -> Outcome {
    Outcome::Failed(Failure::new(
        "unknown_function",
        format!("there is no function named {function:?}"),
    ))
}

/// Stable codes of what the platform, not the function, says.
fn code(error: &CallError) -> &'static str {
    match error {
        CallError::NotFound => "unknown_function",
        CallError::Boot { .. } => "boot_error",
        CallError::WorkerError { .. } => "worker_error",
        CallError::Limit { .. } => "worker_limit",
        CallError::IdleTimeout => "timeout",
        CallError::Overloaded => "overloaded",
        CallError::Stopping => "node_stopping",
    }
}

/// A header's value; what a header cannot carry is percent-encoded, so that a key stays a key.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| {
        HeaderValue::from_str(&crate::client::segment(value)).expect("percent-encoded text is visible ASCII")
    })
}
