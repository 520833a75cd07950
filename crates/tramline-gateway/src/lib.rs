//! The HTTP side of tramline: `/functions/v1`, `/rest/v1`, `/auth/v1`, `/api/v1`, `/v1`, health and metrics.
//!
//! It owns the accept loop with its timeouts and caps, the check of every credential, the rewrite of headers, CORS
//! and the shape of every error. It does not run functions ([`Functions`]), know SQL or drive runs ([`Control`]).
//!
//! The tricky part is who may cut what: a client's socket has timers only while none of its requests is in flight,
//! a request's body has its own, an answer is bounded by the function host. A request lives in one future, so a
//! client that goes away aborts everything done for it.

mod access;
mod answer;
mod api;
mod auth;
mod backend;
mod body;
mod call_token;
mod config;
mod cors;
mod deployments;
mod edge;
mod error;
mod functions;
mod gate_store;
pub mod limits;
mod management;
mod metrics;
mod multipart;
mod openapi;
mod peers;
mod proxy;
mod rates;
mod router;
mod schema;
mod screen;
mod server;
mod strict_json;
mod trace;

pub use access::{AccessFormat, AccessLog};
pub use api::control;
pub use api::{ROUTES, Right, Route};
pub use auth::{
    Claims, Guard, GuardAuth, Issuer, KeySource, LinkKey, Preflight, Secret, TokenError, TokenRules,
    Verifier, WebhookRule, WebhookScheme,
};
pub use body::{Body, BoxError, boxed, empty, full};
pub use call_token::{CallOrigin, CallTokens};
pub use config::{
    ApiPolicy, ClaimsHook, ConfigError, DEFAULT_PORT, GatewayConfig, InvocationObserver, Keys, MetricsAccess,
    Readiness,
};
pub use cors::{BadCors, BadOrigin, Cors, Origin};
pub use deployments::{
    AccessToken, Deployments, FunctionVersion, NewVersion, ProjectName, SecretDigest, Sources,
};
pub use edge::{EdgeRules, Edges};
pub use functions::{
    CallContext, CallError, Dependency, Followed, FunctionInfo, Functions, Invocation, LogLine,
};
pub use gate_store::{AnswerClaim, AnswerEnd, AnswerState, Delivery, GateStore, Kept, KeptAnswer, NewLink};
pub use limits::Limits;
pub use metrics::{Metric, MetricKind, MetricsSource};
pub use multipart::{Part, multipart};
pub use openapi::document as openapi_document;
pub use peers::{BadProxy, TrustedProxies};
pub use schema::{BadSchema, BodySchema, Schema};
pub use server::{Gateway, GatewayHandle, StartError, TlsError, TlsFiles};
pub use trace::TraceId;
