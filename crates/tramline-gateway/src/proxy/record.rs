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

/// Counts the invocation and tells the observer when it is over, however it ends: it is dropped with the answer's body.
pub(crate) struct Record {
    metrics: Arc<Metrics>,
    function: String,
    pub(super) run_id: Option<Uuid>,
    pub(super) status: u16,
    pub(super) error_code: Option<&'static str>,
    /// Only where somebody is told: looking at the clocks is not for nothing.
    told: Option<Box<Told>>,
}

/// What only the observer wants to know.
struct Told {
    observer: InvocationObserver,
    request_id: Uuid,
    trace: Option<TraceId>,
    method: Method,
    started_at: i64,
    started: Instant,
}

impl Record {
    pub(super) fn new(shared: &Shared, visit: &Visit, function: &str, method: &Method) -> Self {
        let told = shared.invocations.as_ref().map(|observer| {
            Box::new(Told {
                observer: Arc::clone(observer),
                request_id: visit.request_id,
                trace: visit.trace,
                method: method.clone(),
                started_at: jiff::Timestamp::now().as_millisecond(),
                started: Instant::now(),
            })
        });
        Self {
            metrics: Arc::clone(&shared.metrics),
            function: function.to_owned(),
            run_id: None,
            status: CLIENT_GONE,
            error_code: None,
            told,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.metrics.invoked(&self.function, self.status);
        if let Some(told) = self.told.take() {
            (told.observer)(Invocation {
                function: std::mem::take(&mut self.function),
                request_id: told.request_id,
                run_id: self.run_id,
                trace: told.trace,
                method: told.method,
                status: self.status,
                error_code: self.error_code,
                started_at: told.started_at,
                duration_ms: u64::try_from(told.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
    }
}
