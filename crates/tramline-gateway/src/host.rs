//! The real function host behind [`Functions`].

use std::collections::HashSet;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Request, Response};
use tokio::sync::broadcast::error::RecvError;
use tramline_host::{FunctionState, Host};

use crate::body::Body;
use crate::functions::{CallContext, CallError, Followed, FunctionInfo, Functions, LogLine};

/// A host whose set of functions is fixed for its life.
pub struct HostFunctions {
    host: Host,
    names: HashSet<String>,
}

impl HostFunctions {
    /// Wraps a started host.
    pub fn new(host: Host) -> Self {
        let names = host.functions().into_iter().map(|info| info.name).collect();
        Self { host, names }
    }
}

impl Functions for HostFunctions {
    fn exists(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn call(
        &self,
        name: &str,
        request: Request<Body>,
        context: CallContext,
    ) -> BoxFuture<'static, Result<Response<Body>, CallError>> {
        let (host, name) = (self.host.clone(), name.to_owned());
        Box::pin(async move {
            let context = tramline_host::CallContext {
                run_id: context.run_id,
                request_id: context.request_id,
                wall_ms: context.wall_ms,
            };
            host.call(&name, request, context).await.map_err(call_error)
        })
    }

    fn list(&self) -> Vec<FunctionInfo> {
        self.host.functions().into_iter().map(info).collect()
    }

    fn recent_logs(&self, function: &str, limit: usize) -> Vec<LogLine> {
        self.host.recent_logs(Some(function), limit).into_iter().map(log_line).collect()
    }

    fn follow_logs(&self) -> BoxStream<'static, Followed> {
        stream::unfold(self.host.logs(), |mut lines| async move {
            let item = match lines.recv().await {
                Ok(line) => Followed::Line(log_line(line)),
                Err(RecvError::Lagged(count)) => Followed::Missed(count),
                Err(RecvError::Closed) => return None,
            };
            Some((item, lines))
        })
        .boxed()
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

fn info(info: tramline_host::FunctionInfo) -> FunctionInfo {
    let (state, reason) = match info.state {
        FunctionState::Pending => ("pending", None),
        FunctionState::Bundling => ("bundling", None),
        FunctionState::Ready => ("ready", None),
        FunctionState::Broken { reason } => ("broken", Some(reason)),
    };
    FunctionInfo { name: info.name, state, reason, version: info.version }
}

fn log_line(line: tramline_host::LogLine) -> LogLine {
    use tramline_host::Stream;
    let stream = match line.stream {
        Stream::Console => "console",
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::Host => "host",
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
