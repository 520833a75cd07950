//! Counters of the gateway and their Prometheus text. Labels are bounded: route classes, statuses and the names of
//! deployed functions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::functions::Functions;

/// A value of another part of the process, such as `tramline_discovery_missed_total`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Full name, with `_total` for counters.
    pub name: String,
    /// One line of explanation.
    pub help: &'static str,
    /// How it moves.
    pub kind: MetricKind,
    /// Bounded labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only up.
    Counter,
    /// Up and down.
    Gauge,
}

/// Gives metrics when `/metrics` is read; must not block.
pub trait MetricsSource: Send + Sync + 'static {
    /// The present values. Metrics of one name stand together.
    fn metrics(&self) -> Vec<Metric>;
}

/// The class of a route: a label, and what decides on CORS and error shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RouteClass {
    Functions,
    Rest,
    Auth,
    Api,
    Management,
    Health,
    Other,
}

impl RouteClass {
    fn as_str(self) -> &'static str {
        match self {
            Self::Functions => "functions",
            Self::Rest => "rest",
            Self::Auth => "auth",
            Self::Api => "api",
            Self::Management => "management",
            Self::Health => "health",
            Self::Other => "other",
        }
    }
}

/// Upper bounds in seconds: from a warm call to the idle timeout.
const BUCKETS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0, 150.0];

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

#[derive(Default)]
struct FunctionCounts {
    by_class: [AtomicU64; 5],
}

/// The gateway's own counters.
pub(crate) struct Metrics {
    deployed: Arc<dyn Functions>,
    requests: Mutex<BTreeMap<(RouteClass, u16), u64>>,
    durations: [Histogram; 7],
    /// Never of more functions than there were at one time: those that are gone are forgotten whenever one is added.
    functions: RwLock<BTreeMap<String, FunctionCounts>>,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) rate_limited: AtomicU64,
    /// Connections that are put aside until their next request.
    pub(crate) waiting: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(deployed: Arc<dyn Functions>) -> Self {
        Self {
            deployed,
            requests: Mutex::default(),
            durations: Default::default(),
            functions: RwLock::default(),
            connections_refused: AtomicU64::new(0),
            rate_limited: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }
    }

    pub(crate) fn answered(&self, class: RouteClass, status: u16, took: Duration) {
        *self
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((class, status))
            .or_insert(0) += 1;
        let histogram = &self.durations[class as usize];
        let seconds = took.as_secs_f64();
        // Cumulative sums are made when reading; each observation touches one bucket.
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            histogram.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        histogram.count.fetch_add(1, Ordering::Relaxed);
        histogram
            .sum_us
            .fetch_add(took.as_micros().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts an invocation of a function that is deployed, or was when it was called: what is gone is counted no more.
    pub(crate) fn invoked(&self, function: &str, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        {
            let known = self.functions.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(counts) = known.get(function) {
                counts.by_class[class].fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let mut known = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(function.to_owned()).or_default().by_class[class].fetch_add(1, Ordering::Relaxed);
        known.retain(|name, _| self.deployed.exists(name));
    }

    /// The Prometheus text.
    pub(crate) fn render(&self, connections: usize, further: &[Metric]) -> String {
        let mut text = String::new();
        head(
            &mut text,
            "tramline_http_requests_total",
            "Answered requests by route class and status.",
            "counter",
        );
        for ((class, status), count) in self
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            let class = class.as_str();
            line(
                &mut text,
                "tramline_http_requests_total",
                &format!("route=\"{class}\",status=\"{status}\""),
                count,
            );
        }
        self.render_durations(&mut text);
        head(
            &mut text,
            "tramline_http_connections",
            "Open client connections.",
            "gauge",
        );
        line(&mut text, "tramline_http_connections", "", connections);
        let waiting = self.waiting.load(Ordering::Relaxed);
        head(
            &mut text,
            "tramline_http_connections_waiting",
            "Open client connections that have been without a request for some time.",
            "gauge",
        );
        line(&mut text, "tramline_http_connections_waiting", "", waiting);
        let refused = self.connections_refused.load(Ordering::Relaxed);
        head(
            &mut text,
            "tramline_http_connections_refused_total",
            "Connections beyond a cap.",
            "counter",
        );
        line(&mut text, "tramline_http_connections_refused_total", "", refused);
        let limited = self.rate_limited.load(Ordering::Relaxed);
        head(
            &mut text,
            "tramline_http_rate_limited_total",
            "Requests beyond the rate of their address or caller.",
            "counter",
        );
        line(&mut text, "tramline_http_rate_limited_total", "", limited);
        head(
            &mut text,
            "tramline_function_invocations_total",
            "Invocations by function and status class.",
            "counter",
        );
        for (name, counts) in self
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(name, _)| self.deployed.exists(name))
        {
            for (index, count) in counts.by_class.iter().enumerate() {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = format!("function=\"{}\",status=\"{}xx\"", escape(name), index + 1);
                    line(&mut text, "tramline_function_invocations_total", &labels, count);
                }
            }
        }
        render_further(&mut text, further);
        text
    }

    fn render_durations(&self, text: &mut String) {
        const NAME: &str = "tramline_http_request_duration_seconds";
        head(text, NAME, "Time to the head of the answer.", "histogram");
        let classes = [
            RouteClass::Functions,
            RouteClass::Rest,
            RouteClass::Auth,
            RouteClass::Api,
            RouteClass::Management,
            RouteClass::Health,
            RouteClass::Other,
        ];
        for class in classes {
            let histogram = &self.durations[class as usize];
            let count = histogram.count.load(Ordering::Relaxed);
            if count == 0 {
                continue;
            }
            let class = class.as_str();
            let mut below = 0;
            for (bound, bucket) in BUCKETS.iter().zip(&histogram.buckets) {
                below += bucket.load(Ordering::Relaxed);
                line(
                    text,
                    &format!("{NAME}_bucket"),
                    &format!("route=\"{class}\",le=\"{bound}\""),
                    below,
                );
            }
            line(
                text,
                &format!("{NAME}_bucket"),
                &format!("route=\"{class}\",le=\"+Inf\""),
                count,
            );
            let sum = histogram.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
            line(text, &format!("{NAME}_sum"), &format!("route=\"{class}\""), sum);
            line(
                text,
                &format!("{NAME}_count"),
                &format!("route=\"{class}\""),
                count,
            );
        }
    }
}

fn render_further(text: &mut String, further: &[Metric]) {
    let mut last = "";
    for metric in further {
        if metric.name != last {
            let kind = match metric.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
            };
            head(text, &metric.name, metric.help, kind);
            last = &metric.name;
        }
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        line(text, &metric.name, &labels.join(","), metric.value);
    }
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = if labels.is_empty() {
        writeln!(text, "{name} {value}")
    } else {
        writeln!(text, "{name}{{{labels}}} {value}")
    };
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
