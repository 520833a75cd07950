//! What an instance may use, and how many there are.

/// Limits of every worker.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Memory of one worker in MB, beyond what an empty one takes. The JavaScript heap gets this as its bound.
    pub memory_mb: u64,
    /// Milliseconds of processor time for one call. Calls that run at the same time share theirs; at half of it the
    /// instance is replaced, at all of it killed.
    pub cpu_ms: u64,
    /// Milliseconds from a call's begin to the end of its answer, streams and WebSockets included.
    pub call_ms: u64,
    /// MB of one answer.
    pub response_mb: u64,
    /// MB of temporary files of one instance.
    pub temp_mb: u64,
    /// Threads of one instance, of which an idle one has 7.
    pub threads: u64,
    /// A worker that does not answer for this long while it has calls is taken for an endless loop and killed.
    pub hang_ms: u64,
    /// Calls one instance may have in flight; the next one is refused as overloaded.
    pub max_in_flight: usize,
    /// Instances of one function that share its calls. A second one is started when the first has many in flight.
    pub max_instances: usize,
    /// Instances of one function that are kept although nobody calls.
    pub min_instances: usize,
    /// An instance that has begun so many calls is replaced once they are done.
    pub max_calls: u64,
    /// Log entries of one instance that are kept in ten seconds.
    pub log_entries: u32,
    /// An instance older than this is replaced once its calls are done.
    pub max_age_ms: u64,
    /// An instance without calls for this long is ended.
    pub idle_ms: u64,
    /// How long a module may take to load.
    pub boot_ms: u64,
    /// How long one bundling may take.
    pub bundle_ms: u64,
    /// Generic workers kept started, so that a first call need not wait for a process.
    pub spare_workers: usize,
    /// How many functions get an instance in the background after the start; the others get theirs at their first call.
    pub prestart: usize,
    /// How long log entries are kept in files.
    pub log_keep_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // what Supabase gives an edge function
            memory_mb: 256,
            // as there
            cpu_ms: 2_000,
            call_ms: 400_000,
            // more than anybody sends in that time on purpose
            response_mb: 1_024,
            // as there, on the free plan
            temp_mb: 256,
            threads: 64,
            hang_ms: 10_000,
            max_in_flight: 1_000,
            // one event loop answers tens of thousands of calls in a second; more are for functions that compute
            max_instances: 1,
            min_instances: 0,
            max_calls: u64::MAX,
            // as on Supabase
            log_entries: 100,
            max_age_ms: 6 * 60 * 60 * 1_000,
            idle_ms: 30 * 60 * 1_000,
            boot_ms: 15_000,
            bundle_ms: 120_000,
            spare_workers: 1,
            prestart: 16,
            log_keep_ms: 14 * DAY_MS,
        }
    }
}

/// Limits of one function; those of the host hold where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionLimits {
    /// Milliseconds until the answer must have begun, whatever the caller gives.
    pub wall_ms: Option<u64>,
    pub memory_mb: Option<u64>,
    pub cpu_ms: Option<u64>,
    pub call_ms: Option<u64>,
    pub response_mb: Option<u64>,
    pub max_in_flight: Option<usize>,
    pub max_instances: Option<usize>,
    pub min_instances: Option<usize>,
    pub max_calls: Option<u64>,
    pub temp_mb: Option<u64>,
    pub threads: Option<u64>,
    pub log_entries: Option<u32>,
    pub max_age_ms: Option<u64>,
    pub idle_ms: Option<u64>,
    /// MB of a request's body. Whoever passes requests on has a default, and refuses larger ones.
    pub body_mb: Option<u64>,
}

impl Limits {
    /// These, with a function's own in their place.
    pub fn with(&self, own: &FunctionLimits) -> Limits {
        Limits {
            memory_mb: own.memory_mb.unwrap_or(self.memory_mb),
            cpu_ms: own.cpu_ms.unwrap_or(self.cpu_ms),
            call_ms: own.call_ms.unwrap_or(self.call_ms),
            response_mb: own.response_mb.unwrap_or(self.response_mb),
            max_in_flight: own.max_in_flight.unwrap_or(self.max_in_flight),
            max_instances: own.max_instances.unwrap_or(self.max_instances),
            min_instances: own.min_instances.unwrap_or(self.min_instances),
            max_calls: own.max_calls.unwrap_or(self.max_calls),
            temp_mb: own.temp_mb.unwrap_or(self.temp_mb),
            threads: own.threads.unwrap_or(self.threads),
            log_entries: own.log_entries.unwrap_or(self.log_entries),
            max_age_ms: own.max_age_ms.unwrap_or(self.max_age_ms),
            idle_ms: own.idle_ms.unwrap_or(self.idle_ms),
            ..self.clone()
        }
    }

    /// These without those on time: somebody looks at a stopped program. One instance, because there is one port.
    pub fn for_debugger(self) -> Limits {
        Limits {
            cpu_ms: u64::MAX,
            call_ms: DEBUG_MS,
            hang_ms: DEBUG_MS,
            boot_ms: DEBUG_MS,
            max_age_ms: DEBUG_MS,
            idle_ms: DEBUG_MS,
            max_instances: 1,
            ..self
        }
    }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Nobody stops at one place for longer.
pub const DEBUG_MS: u64 = DAY_MS;
