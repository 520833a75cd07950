//! Requests whose function has rules that need the whole body.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::idempotency::{self, Keyed};
use super::{Call, Record, declared_length};
use crate::api::is_json;
use crate::auth::Caller;
use crate::body::{Body, BodyCut, GuardedBody, full};
use crate::edge::EdgeRules;
use crate::error::Fault;
use crate::limits::{JSON_DEPTH_MAX, WHOLE_BODY_MAX};
use crate::schema::BodySchema;
use crate::server::{Shared, Visit};
use crate::strict_json;

/// The rules that hold for one request.
pub(super) struct Edge {
    schema: Option<Arc<BodySchema>>,
    keyed: Option<Keyed>,
}

impl Edge {
    /// None when nothing is to be done with this request.
    pub(super) fn of(
        shared: &Shared,
        name: &str,
        request: &Request<Incoming>,
    ) -> Result<Option<Self>, Fault> {
        let Some(rules) = shared.edge_of(name).filter(|rules| concerns(rules, request)) else {
            return Ok(None);
        };
        let keyed = match rules.keep_answers {
            Some(retention) => Keyed::of(request.headers(), retention)?,
            None => None,
        };
        let schema = rules.schema.filter(|_| has_body(request.method()));
        Ok((schema.is_some() || keyed.is_some()).then_some(Self { schema, keyed }))
    }

    /// Calls the function by these rules.
    pub(super) async fn call(
        self,
        shared: &Shared,
        visit: &Visit,
        name: &str,
        caller: Option<&Caller>,
        request: Request<Incoming>,
        record: &mut Record,
    ) -> Result<Response<Body>, Fault> {
        let request = whole(shared, name, request, WHOLE_BODY_MAX).await?;
        if let Some(schema) = &self.schema {
            check(schema, &request)?;
        }
        if let Some(keyed) = self.keyed {
            return idempotency::call(shared, visit, name, keyed, caller, request, record).await;
        }
        let call = Call::new(shared, visit, caller, request.map(full), record)?;
        call.send(shared, visit, name, None, WHOLE_BODY_MAX).await
    }
}

/// Whether rules have to do with this request: most functions that have settings have no rules, and most requests no key.
pub(super) fn concerns<B>(rules: &EdgeRules, request: &Request<B>) -> bool {
    let method = request.method();
    // Safe methods change nothing: there is nothing to be done once, and no body.
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return false;
    }
    let is_kept = rules.keep_answers.is_some() && idempotency::has_key(request.headers());
    is_kept || (rules.schema.is_some() && has_body(method))
}

fn has_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Compares the body of a verified webhook with its function's schema.
pub(super) fn check_webhook(shared: &Shared, name: &str, request: &Request<Bytes>) -> Result<(), Fault> {
    match shared.edge_of(name).and_then(|rules| rules.schema) {
        Some(schema) if has_body(request.method()) => check(&schema, request),
        _ => Ok(()),
    }
}

fn check(schema: &BodySchema, request: &Request<Bytes>) -> Result<(), Fault> {
    if !is_json(request.headers()) {
        return Err(Fault::not_json());
    }
    let body = strict_json::parse(request.body(), JSON_DEPTH_MAX).map_err(|fault| Fault::json(&fault))?;
    let problems = schema.problems(&body);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Fault::body_refused(&problems))
    }
}

/// Reads a request's body whole.
pub(super) async fn whole(
    shared: &Shared,
    name: &str,
    request: Request<Incoming>,
    whole_max: u64,
) -> Result<Request<Bytes>, Fault> {
    let bytes_max = super::body_max(shared, name).min(whole_max);
    if declared_length(request.headers()).is_some_and(|length| length > bytes_max) {
        return Err(Fault::body_cut(BodyCut::TooLarge, bytes_max));
    }
    let (parts, body) = request.into_parts();
    let (body, watch) = GuardedBody::paced(body, bytes_max, shared.limits.body_idle);
    let collected = body.collect().await.map_err(|error| match watch.cause() {
        Some(cut) => Fault::body_cut(cut, bytes_max),
        None => Fault::bad_request(format!("Body could not be read: {error}")).closing(),
    })?;
    Ok(Request::from_parts(parts, collected.to_bytes()))
}
