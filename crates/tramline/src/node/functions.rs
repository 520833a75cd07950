//! The host as the gateway sees it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use tokio::sync::broadcast::error::RecvError;
use tramline_gateway::{
    Body, CallContext, CallError, CallTokens, Dependency, Followed, FunctionInfo, Functions, LogLine,
};
use tramline_host::{FunctionState, Host, Registry};

use super::call_tokens::ReusedTokens;

/// Adapts the host to the gateway's trait.
pub struct HostedFunctions {
    host: Host,
    call_tokens: ReusedTokens,
}

impl HostedFunctions {
    pub fn new(host: Host, call_tokens: Arc<CallTokens>) -> Self {
        Self {
            host,
            call_tokens: ReusedTokens::new(call_tokens),
        }
    }
}

impl Functions for HostedFunctions {
    fn exists(&self, name: &str) -> bool {
        self.host.exists(name)
    }

    fn body_max(&self, name: &str) -> Option<u64> {
        self.host.body_max(name)
    }

    fn call(
        &self,
        name: &str,
        request: Request<Body>,
        context: CallContext,
    ) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
        let (host, name) = (self.host.clone(), name.to_owned());
        let wall_ms = self.host.wall_ms(&name).unwrap_or(context.wall_ms);
        let call_token = self.call_tokens.issue(&name, context.run_id.as_deref(), wall_ms);
        let context = tramline_host::CallContext {
            run_id: context.run_id,
            request_id: context.request_id,
            wall_ms,
            call_token: Some(call_token),
        };
        async move { host.call(&name, request, context).await.map_err(call_error) }.boxed()
    }

    fn list(&self) -> Vec<FunctionInfo> {
        self.host.functions().into_iter().map(info).collect()
    }

    fn recent_logs(&self, function: &str, limit: usize) -> Vec<LogLine> {
        self.host
            .recent_logs(Some(function), limit)
            .into_iter()
            .map(log_line)
            .collect()
    }

    fn follow_logs(&self) -> BoxStream<'static, Followed> {
        stream::unfold(self.host.logs(), |mut lines| async move {
            match lines.recv().await {
                Ok(line) => Some((Followed::Line(log_line(line)), lines)),
                Err(RecvError::Lagged(missed)) => Some((Followed::Missed(missed), lines)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}

/// A state's name and the reason when it is broken.
pub fn state(state: FunctionState) -> (&'static str, Option<String>) {
    match state {
        FunctionState::Pending => ("pending", None),
        FunctionState::Bundling => ("bundling", None),
        FunctionState::Ready => ("ready", None),
        FunctionState::Broken { reason } => ("broken", Some(reason)),
    }
}

fn info(info: tramline_host::FunctionInfo) -> FunctionInfo {
    let (state, reason) = state(info.state);
    FunctionInfo {
        name: info.name,
        state,
        reason,
        version: info.version,
        deployed: info.deployed,
        dependencies: info.dependencies.iter().map(dependency).collect(),
    }
}

fn dependency(dependency: &tramline_host::Dependency) -> Dependency {
    Dependency {
        registry: match dependency.registry {
            Registry::Npm => "npm",
            Registry::Jsr => "jsr",
            Registry::Url => "url",
        },
        name: dependency.name.clone(),
        version: dependency.version.clone(),
    }
}

fn log_line(line: tramline_host::LogLine) -> LogLine {
    let stream = match line.stream {
        tramline_host::Stream::Console => "console",
        tramline_host::Stream::Stdout => "stdout",
        tramline_host::Stream::Stderr => "stderr",
        tramline_host::Stream::Host => "host",
    };
    LogLine {
        at: line.at,
        function: line.function,
        level: line.level.as_str().to_owned(),
        message: line.message,
        run_id: line.run_id,
        request_id: line.request_id,
        stream: stream.to_owned(),
    }
}

fn call_error(error: tramline_host::CallError) -> CallError {
    use tramline_host::CallError as Host;
    match error {
        Host::NotFound => CallError::NotFound,
        Host::Boot { message } => CallError::Boot { message },
        Host::WorkerError { message } => CallError::WorkerError { message },
        Host::Limit { message } => CallError::Limit { message },
        Host::IdleTimeout => CallError::IdleTimeout,
        Host::Overloaded => CallError::Overloaded,
        Host::Stopping => CallError::Stopping,
    }
}
