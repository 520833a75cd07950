//! `[host]`, and the limits of one function.

use tramline_host::FunctionLimits;

use super::reader::Section;

/// MB of memory of one instance: below, not even an empty one starts.
const MEMORY_MB: std::ops::RangeInclusive<u64> = 32..=65_536;
/// Processor time of one call, in milliseconds; an hour is a run's business, not a call's.
const CPU_MS: std::ops::RangeInclusive<u64> = 10..=3_600_000;
/// Seconds until the end of an answer: WebSockets may stay a day.
const CALL_SECONDS: std::ops::RangeInclusive<u64> = 1..=86_400;
const RESPONSE_MB: std::ops::RangeInclusive<u64> = 1..=1_048_576;
const IN_FLIGHT: std::ops::RangeInclusive<u64> = 1..=100_000;

/// Each is a process of tens of MB.
const MAX_INSTANCES: std::ops::RangeInclusive<u64> = 1..=256;
const MIN_INSTANCES: std::ops::RangeInclusive<u64> = 0..=256;
const CALLS: std::ops::RangeInclusive<u64> = 1..=1_000_000_000_000;
const TEMP_MB: std::ops::RangeInclusive<u64> = 1..=1_048_576;
/// A worker has 7 before its function begins.
const THREADS: std::ops::RangeInclusive<u64> = 16..=4_096;
/// Of one instance in ten seconds; all functions share memory for 2,000.
const LOG_ENTRIES: std::ops::RangeInclusive<u64> = 1..=100_000;
const MINUTES: std::ops::RangeInclusive<u64> = 1..=100_000;
/// Ten years.
const LOG_DAYS: std::ops::RangeInclusive<u64> = 1..=3_650;

/// `[host]`; see the host's `Limits` for the defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostSettings {
    pub memory_mb: Option<u64>,
    pub cpu_ms: Option<u64>,
    pub call_seconds: Option<u64>,
    pub max_response_mb: Option<u64>,
    pub temp_mb: Option<u64>,
    pub threads: Option<u64>,
    pub hang_seconds: Option<u64>,
    pub max_in_flight: Option<u64>,
    pub max_instances: Option<u64>,
    pub min_instances: Option<u64>,
    pub max_calls_per_instance: Option<u64>,
    pub max_log_entries: Option<u64>,
    pub log_days: Option<u64>,
    pub max_age_minutes: Option<u64>,
    pub idle_minutes: Option<u64>,
    pub boot_seconds: Option<u64>,
    pub bundle_seconds: Option<u64>,
    pub spare_workers: Option<u64>,
    pub prestart: Option<u64>,
}

pub(super) fn read(section: &Section<'_>) -> HostSettings {
    let settings = HostSettings {
        memory_mb: section.number("memory_mb", MEMORY_MB),
        cpu_ms: section.number("cpu_ms", CPU_MS),
        call_seconds: section.number("call_seconds", CALL_SECONDS),
        max_response_mb: section.number("max_response_mb", RESPONSE_MB),
        temp_mb: section.number("temp_mb", TEMP_MB),
        threads: section.number("threads", THREADS),
        hang_seconds: section.number("hang_seconds", 1..=3_600),
        max_in_flight: section.number("max_in_flight", IN_FLIGHT),
        max_instances: section.number("max_instances", MAX_INSTANCES),
        min_instances: section.number("min_instances", MIN_INSTANCES),
        max_calls_per_instance: section.number("max_calls_per_instance", CALLS),
        max_log_entries: section.number("max_log_entries", LOG_ENTRIES),
        log_days: section.number("log_days", LOG_DAYS),
        max_age_minutes: section.number("max_age_minutes", MINUTES),
        idle_minutes: section.number("idle_minutes", MINUTES),
        boot_seconds: section.number("boot_seconds", 1..=600),
        bundle_seconds: section.number("bundle_seconds", 1..=3_600),
        spare_workers: section.number("spare_workers", 0..=64),
        prestart: section.number("prestart", 0..=10_000),
    };
    section.finish();
    settings
}

/// What a block `[functions.<name>]` says in place of `[host]`.
pub(super) fn read_function_limits(block: &Section<'_>) -> FunctionLimits {
    FunctionLimits {
        // `timeout_seconds`, which the gateway has a default for
        wall_ms: None,
        memory_mb: block.number("memory_mb", MEMORY_MB),
        cpu_ms: block.number("cpu_ms", CPU_MS),
        call_ms: block
            .number("call_seconds", CALL_SECONDS)
            .map(|seconds| seconds * 1_000),
        response_mb: block.number("max_response_mb", RESPONSE_MB),
        max_in_flight: block
            .number("max_in_flight", IN_FLIGHT)
            .and_then(|max| usize::try_from(max).ok()),
        max_instances: block
            .number("max_instances", MAX_INSTANCES)
            .and_then(|max| usize::try_from(max).ok()),
        min_instances: block
            .number("min_instances", MIN_INSTANCES)
            .and_then(|min| usize::try_from(min).ok()),
        // `max_calls` is the engine's: how many it may have out
        max_calls: block.number("max_calls_per_instance", CALLS),
        temp_mb: block.number("temp_mb", TEMP_MB),
        threads: block.number("threads", THREADS),
        log_entries: block
            .number("max_log_entries", LOG_ENTRIES)
            .and_then(|max| u32::try_from(max).ok()),
        max_age_ms: block
            .number("max_age_minutes", MINUTES)
            .map(|minutes| minutes * 60_000),
        idle_ms: block
            .number("idle_minutes", MINUTES)
            .map(|minutes| minutes * 60_000),
        body_mb: block.number("max_body_mb", 1..=super::BODY_MB_MAX),
    }
}
