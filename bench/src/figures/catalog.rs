//! All figures: their stable names, units and meaning.

/// A figure's stable name and what it means.
#[derive(Debug)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub more_is_better: bool,
    /// Measured only with `--full`, or when it is named by `--only`.
    pub long: bool,
    pub what: &'static str,
}

impl Figure {
    const fn long(mut self) -> Self {
        self.long = true;
        self
    }
}

const fn more(name: &'static str, unit: &'static str, what: &'static str) -> Figure {
    Figure {
        name,
        unit,
        more_is_better: true,
        long: false,
        what,
    }
}

const fn less(name: &'static str, unit: &'static str, what: &'static str) -> Figure {
    Figure {
        name,
        unit,
        more_is_better: false,
        long: false,
        what,
    }
}

/// The figure of a name.
pub fn find(name: &str) -> Option<&'static Figure> {
    FIGURES.iter().find(|figure| figure.name == name)
}

/// All figures, in the order of the table.
pub const FIGURES: &[Figure] = &[
    more(
        "jobs-per-second",
        "jobs/s",
        "jobs that do nothing, 300 bytes in and out: a backlog, from the start of the node to its last durable end",
    ),
    more(
        "jobs-burst-per-second",
        "jobs/s",
        "the same backlog, committed at once under a running node",
    ),
    more(
        "jobs-held-snapshot-per-second",
        "jobs/s",
        "jobs enqueued and executed without a pause while another session holds a snapshot open",
    ),
    more(
        "jobs-through-functions-per-second",
        "jobs/s",
        "a backlog of jobs that are calls of a Deno function",
    ),
    more(
        "enqueue-batched-per-second",
        "jobs/s",
        "jobs enqueued by one client, 1,000 a batch",
    ),
    more(
        "enqueue-gateway-per-second",
        "jobs/s",
        "jobs enqueued one by one by 16 clients, through the gateway",
    ),
    more(
        "enqueue-view-per-second",
        "jobs/s",
        "the same, by inserts into the view ops.runs",
    ),
    more(
        "enqueue-correlated-per-second",
        "jobs/s",
        "the same, each with a correlation id of its own",
    ),
    more(
        "three-step-runs-per-second",
        "runs/s",
        "runs of three steps, 50 at a time, each enqueued by itself",
    ),
    more(
        "three-step-runs-per-second-unbounded",
        "runs/s",
        "runs of three steps, all handed over at once, from the first call to the last durable end",
    ),
    more(
        "three-step-backlog-per-second",
        "runs/s",
        "runs of three steps, all enqueued beforehand, from the start of the node",
    ),
    less(
        "three-step-alone",
        "ms",
        "one run of three steps at a time, from enqueue to its durable end",
    ),
    less(
        "enqueue-to-start",
        "ms",
        "from the call of enqueue to the first line of the job, 50 jobs a second",
    ),
    less(
        "end-to-end-5000-per-second",
        "ms",
        "from the call of enqueue to the durable end, 5,000 jobs a second enqueued one by one",
    ),
    less(
        "step-to-step",
        "ms",
        "from the end of a step's code to the start of the next step's",
    ),
    less(
        "memory-100k-active",
        "MB",
        "a node's memory for 100,000 runs that are in a step, 300 bytes in each",
    ),
    less(
        "memory-1m-waiting",
        "MB",
        "a node's memory with 1,000,000 runs that start in a day",
    )
    .long(),
    less(
        "memory-1m-blocked",
        "MB",
        "a node's memory with 1,000,000 runs that wait for a limit",
    )
    .long(),
    less("list-by-id", "ms", "one of 5,000,000 ended runs by its id").long(),
    less("list-newest", "ms", "the newest 50 of 5,000,000 ended runs").long(),
    less(
        "list-newest-of-status",
        "ms",
        "the newest 50 failed ones of 5,000,000 ended runs, one in 1,000",
    )
    .long(),
    less(
        "idle-node-cpu",
        "% of a core",
        "processor time of a node without work",
    ),
    less(
        "idle-node-statements-per-second",
        "statements/s",
        "what a node without work asks the database",
    ),
    less(
        "cold-start-hello",
        "ms",
        "first answer of a new function instance",
    ),
    less(
        "cold-start-supabase-js",
        "ms",
        "the same for a function that uses supabase-js",
    ),
    less(
        "cold-start-empty-pool",
        "ms",
        "the same as the first when no started process waits",
    ),
    less(
        "edit-live-hello",
        "ms",
        "from the save of a function's file until `tramline dev` answers with it",
    ),
    less(
        "edit-live-supabase-js",
        "ms",
        "the same for a function that uses supabase-js",
    ),
    more(
        "instance-calls-per-second",
        "calls/s",
        "calls of a running instance through the host, 32 at a time",
    ),
    less(
        "instance-memory-idle",
        "MB",
        "private memory of an idle instance of a function that says hello",
    ),
    less(
        "host-200-functions-start",
        "ms",
        "start of a host that knows 200 functions, until each can be called",
    ),
    less("host-200-functions-memory", "MB", "memory of that host"),
    more(
        "gateway-hello",
        "requests/s",
        "an open function over 32 kept connections",
    ),
    more(
        "gateway-hello-jwt",
        "requests/s",
        "the same function when it asks for a JWT",
    ),
    less(
        "gateway-added-p50",
        "ms",
        "what the gateway adds to a request's median at half of its load",
    ),
    less("gateway-added-p99", "ms", "the same of the 99th percentile"),
    less(
        "gateway-memory-10k-connections",
        "MB",
        "memory of a gateway with 10,000 idle connections",
    ),
    less(
        "deploy-one-of-200",
        "ms",
        "`tramline deploy` of 200 functions of which one has changed",
    ),
    less(
        "first-call-after-deploy",
        "ms",
        "first call of a function that was just deployed",
    ),
    less(
        "gateway-streams-memory",
        "MB",
        "growth of a node's memory while 64 streams of 10 MB pass, both ways",
    ),
    more(
        "tokens-hs256-per-second",
        "tokens/s",
        "tokens of the project verified by one core",
    ),
    more(
        "tokens-es256-per-second",
        "tokens/s",
        "tokens of an issuer whose keys are known, verified by one core",
    ),
];
