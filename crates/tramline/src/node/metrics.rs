//! The engine's and the host's numbers for `/metrics`.

use tramline_engine::EngineHandle;
use tramline_gateway::{Metric, MetricKind, MetricsSource};
use tramline_host::Host;

/// Reads them when asked.
pub struct EngineMetrics(pub EngineHandle);

impl MetricsSource for EngineMetrics {
    fn metrics(&self) -> Vec<Metric> {
        let stats = self.0.stats();
        let metric = |name: &str, help: &'static str, kind: MetricKind, value: u64| Metric {
            name: name.to_owned(),
            help,
            kind,
            labels: Vec::new(),
            value: value as f64,
        };
        let shards = u64::try_from(stats.shards.len()).unwrap_or(u64::MAX);
        vec![
            metric(
                "tramline_shards_owned",
                "Shards that this node owns.",
                MetricKind::Gauge,
                shards,
            ),
            metric(
                "tramline_runs_active",
                "Runs that this node drives.",
                MetricKind::Gauge,
                stats.active,
            ),
            metric(
                "tramline_runs_known",
                "Unfinished runs in this node's memory.",
                MetricKind::Gauge,
                stats.known,
            ),
            metric(
                "tramline_runs_ended_total",
                "Runs that this node has ended.",
                MetricKind::Counter,
                stats.ended,
            ),
            metric(
                "tramline_flushes_total",
                "Flushes that the database has answered.",
                MetricKind::Counter,
                stats.flushes,
            ),
            metric(
                "tramline_flush_failures_total",
                "Attempts of flushes that failed and were repeated.",
                MetricKind::Counter,
                stats.flush_failures,
            ),
            metric(
                "tramline_flush_stalled_seconds",
                "How long the present flush has not been answered; 0 when nothing fails.",
                MetricKind::Gauge,
                stats
                    .flush_stalled
                    .map_or(0, |stall| stall.lasting.as_secs().max(1)),
            ),
            metric(
                "tramline_discovery_polls_total",
                "Discovery statements sent.",
                MetricKind::Counter,
                stats.polls,
            ),
            metric(
                "tramline_discovery_rescans_total",
                "Scans after a lost connection.",
                MetricKind::Counter,
                stats.rescans,
            ),
            metric(
                "tramline_stuck",
                "Runs of this node's shards, and shards without an owner, that do not move although they should.",
                MetricKind::Gauge,
                stats.stuck,
            ),
            metric(
                "tramline_stuck_events_total",
                "Events run.stuck that this node has raised.",
                MetricKind::Counter,
                stats.stuck_raised,
            ),
            metric(
                "tramline_discovery_missed_total",
                "Runs that discovery missed and the sweep found; must stay 0.",
                MetricKind::Counter,
                stats.missed,
            ),
        ]
    }
}

/// Reads the host's when asked.
pub struct HostMetrics(pub Host);

impl MetricsSource for HostMetrics {
    fn metrics(&self) -> Vec<Metric> {
        let stats = self.0.stats();
        let metric = |name: &str, help: &'static str, kind: MetricKind, value: f64| Metric {
            name: name.to_owned(),
            help,
            kind,
            labels: Vec::new(),
            value,
        };
        let gauge = |name, help, value: u64| metric(name, help, MetricKind::Gauge, value as f64);
        let counter = |name, help, value| metric(name, help, MetricKind::Counter, value);
        vec![
            gauge(
                "tramline_function_instances",
                "Processes that serve functions.",
                stats.instances,
            ),
            gauge(
                "tramline_function_spare_workers",
                "Warmed-up processes that wait for a function.",
                stats.spares,
            ),
            gauge(
                "tramline_function_calls_in_flight",
                "Calls of functions under way.",
                stats.in_flight,
            ),
            counter(
                "tramline_function_starts_from_spare_total",
                "Instances started from a warmed-up process.",
                stats.starts_from_spare as f64,
            ),
            counter(
                "tramline_function_starts_fresh_total",
                "Instances that needed a new process.",
                stats.starts_fresh as f64,
            ),
            counter(
                "tramline_function_start_seconds_total",
                "Time from wanting an instance to having it, of all starts together.",
                stats.starts_us as f64 / 1_000_000.0,
            ),
        ]
    }
}
