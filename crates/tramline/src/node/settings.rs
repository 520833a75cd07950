//! From the project's settings to those of each part; what is not set keeps the part's own default.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tramline_engine::EngineConfig;
use tramline_gateway::{Keys, Limits, Secret};

use super::project::Setup;
use crate::config::{EngineSettings, FunctionSettings, GatewaySettings, HostSettings};

/// Calls of functions that the engine may have out at once: what a few instances on a small machine answer in good time;
/// the others wait in the engine, where waiting costs nothing and starts no time limit.
const CALLS_MAX: usize = 200;

pub(super) fn keys(setup: &Setup) -> Keys {
    Keys {
        jwt_secret: Secret::new(setup.keys.jwt_secret.clone()),
        anon_token: Secret::new(setup.keys.anon_key.clone()),
        service_role_token: Secret::new(setup.keys.service_role_key.clone()),
        publishable_keys: vec![Secret::new(setup.keys.publishable_key.clone())],
        secret_keys: vec![Secret::new(setup.keys.secret_key.clone())],
    }
}

/// How many calls of each function the engine may have out, where the project says so.
pub(super) fn function_calls(functions: &BTreeMap<String, FunctionSettings>) -> HashMap<String, usize> {
    let max = |settings: &FunctionSettings| settings.max_calls.and_then(|max| usize::try_from(max).ok());
    functions
        .iter()
        .filter_map(|(name, settings)| Some((name.clone(), max(settings)?)))
        .collect()
}

pub(super) fn engine(settings: &EngineSettings, name: &str) -> EngineConfig {
    let mut config = EngineConfig {
        node_name: name.to_owned(),
        calls_max: CALLS_MAX,
        ..EngineConfig::default()
    };
    set(&mut config.lease, settings.lease_seconds.map(Duration::from_secs));
    set(
        &mut config.calls_max,
        settings.max_calls.and_then(|max| usize::try_from(max).ok()),
    );
    set(
        &mut config.active_max,
        settings.max_active_runs.and_then(|max| usize::try_from(max).ok()),
    );
    set(
        &mut config.function_timeout,
        settings.function_timeout_seconds.map(Duration::from_secs),
    );
    set(&mut config.poll_max, settings.poll_ms.map(Duration::from_millis));
    set(
        &mut config.warm_before,
        settings.warm_before_seconds.map(Duration::from_secs),
    );
    let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
    set(&mut config.stuck.queued, seconds(settings.stuck_queued_seconds));
    set(&mut config.stuck.overdue, seconds(settings.stuck_overdue_seconds));
    set(&mut config.stuck.request, seconds(settings.stuck_request_seconds));
    config
}

pub(super) fn gateway(settings: &GatewaySettings) -> Limits {
    let mut limits = Limits {
        rate_per_ip: settings.rate_per_ip,
        rate_per_key: settings.rate_per_key,
        ..Limits::default()
    };
    let count = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok());
    let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
    set(
        &mut limits.function_body_max,
        settings.max_body_mb.map(|mb| mb << 20),
    );
    set(&mut limits.connections_max, count(settings.max_connections));
    set(
        &mut limits.connections_per_ip_max,
        count(settings.max_connections_per_ip),
    );
    set(
        &mut limits.header_timeout,
        seconds(settings.header_timeout_seconds),
    );
    set(&mut limits.body_idle, seconds(settings.body_idle_seconds));
    set(&mut limits.keep_alive, seconds(settings.keep_alive_seconds));
    set(&mut limits.write_stall, seconds(settings.write_stall_seconds));
    set(
        &mut limits.function_idle,
        seconds(settings.answer_timeout_seconds),
    );
    set(&mut limits.drain_delay, seconds(settings.drain_delay_seconds));
    limits
}

pub(super) fn host(settings: &HostSettings) -> tramline_host::Limits {
    let mut limits = tramline_host::Limits::default();
    set(&mut limits.memory_mb, settings.memory_mb);
    set(&mut limits.cpu_ms, settings.cpu_ms);
    set(
        &mut limits.call_ms,
        settings.call_seconds.map(|seconds| seconds * 1_000),
    );
    set(&mut limits.response_mb, settings.max_response_mb);
    set(&mut limits.temp_mb, settings.temp_mb);
    set(&mut limits.threads, settings.threads);
    set(
        &mut limits.hang_ms,
        settings.hang_seconds.map(|seconds| seconds * 1_000),
    );
    set(
        &mut limits.max_in_flight,
        settings.max_in_flight.and_then(|max| usize::try_from(max).ok()),
    );
    let count = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok());
    set(&mut limits.max_instances, count(settings.max_instances));
    set(&mut limits.min_instances, count(settings.min_instances));
    set(&mut limits.max_calls, settings.max_calls_per_instance);
    set(
        &mut limits.log_entries,
        settings.max_log_entries.and_then(|max| u32::try_from(max).ok()),
    );
    set(
        &mut limits.log_keep_ms,
        settings.log_days.map(|days| days * 86_400_000),
    );
    set(
        &mut limits.max_age_ms,
        settings.max_age_minutes.map(|minutes| minutes * 60_000),
    );
    set(
        &mut limits.idle_ms,
        settings.idle_minutes.map(|minutes| minutes * 60_000),
    );
    set(
        &mut limits.boot_ms,
        settings.boot_seconds.map(|seconds| seconds * 1_000),
    );
    set(
        &mut limits.bundle_ms,
        settings.bundle_seconds.map(|seconds| seconds * 1_000),
    );
    set(&mut limits.prestart, count(settings.prestart));
    set(
        &mut limits.spare_workers,
        settings
            .spare_workers
            .and_then(|count| usize::try_from(count).ok()),
    );
    limits
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
