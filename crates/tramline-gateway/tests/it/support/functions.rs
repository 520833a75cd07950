//! Functions that a test scripts.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::json;
use tramline_gateway::*;

type Script =
    dyn Fn(Request<Body>, CallContext) -> BoxFuture<'static, Result<Response<Body>, CallError>> + Send + Sync;

#[derive(Default)]
pub struct ScriptedFunctions {
    scripts: Mutex<HashMap<String, Arc<Script>>>,
    pub logs: Mutex<Vec<LogLine>>,
    pub live: Mutex<Vec<Followed>>,
    /// Limits of single functions on the time of a call.
    pub walls: Mutex<HashMap<String, Duration>>,
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

    pub fn delete(&self, name: &str) {
        self.scripts.lock().unwrap().remove(name);
    }
}

impl Functions for ScriptedFunctions {
    fn wall(&self, name: &str) -> Option<Duration> {
        self.walls.lock().unwrap().get(name).copied()
    }

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
