//! What is told of an invocation when it is over.

use std::sync::Arc;
use std::time::Instant;

use http::Method;
use uuid::Uuid;

use crate::access::CLIENT_GONE;
use crate::config::InvocationObserver;
use crate::functions::Invocation;
use crate::metrics::Metrics;
use crate::server::{Shared, Visit};
use crate::trace::TraceId;

/// Tells the observer when the invocation is over, however it ends: it is dropped with the answer's body.
pub(crate) struct Record {
    observer: Option<InvocationObserver>,
    metrics: Arc<Metrics>,
    function: String,
    request_id: Uuid,
    pub(super) run_id: Option<Uuid>,
    trace: Option<TraceId>,
    method: Method,
    pub(super) status: u16,
    pub(super) error_code: Option<&'static str>,
    started_at: i64,
    started: Instant,
}

impl Record {
    pub(super) fn new(shared: &Shared, visit: &Visit, function: &str, method: &Method) -> Self {
        Self {
            observer: shared.invocations.clone(),
            metrics: Arc::clone(&shared.metrics),
            function: function.to_owned(),
            request_id: visit.request_id,
            run_id: None,
            trace: visit.trace,
            method: method.clone(),
            status: CLIENT_GONE,
            error_code: None,
            started_at: jiff::Timestamp::now().as_millisecond(),
            started: Instant::now(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.metrics.invoked(&self.function, self.status);
        if let Some(observer) = &self.observer {
            observer(Invocation {
                function: std::mem::take(&mut self.function),
                request_id: self.request_id,
                run_id: self.run_id,
                trace: self.trace,
                method: self.method.clone(),
                status: self.status,
                error_code: self.error_code,
                started_at: self.started_at,
                duration_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
    }
}
