//! What the bodies of requests may hold. Each type is the whole truth about one body: the OpenAPI document takes its
//! schema from here, the reader the names of its fields. The values are read field by field ([`super::fields`]), so that
//! all problems of a body are told at once and unknown names get a suggestion; no value of these types is ever made.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::links::PART_CHARS_MAX;
use super::runs::{DELAY_MAX, KEY_CHARS_MAX, REASON_CHARS_MAX, TARGET_CHARS_MAX};
use super::workers::{MESSAGE_CHARS_MAX, NAME_CHARS_MAX, URI_CHARS_MAX, WORKER_CHARS_MAX};
use crate::limits::{BULK_MAX, CLAIM_MAX, LEASE_MAX, LEASE_MIN, RUNS_PER_REQUEST_MAX};
use crate::openapi::kinds::{Instant, Span, Text, Whole};

/// Longest interval, jitter and delay between attempts: 366 days, in seconds.
const YEAR_S: u64 = 366 * 24 * 3600;

/// The body of a request.
pub(crate) trait RequestBody: JsonSchema {
    /// The names of its fields; any other is refused.
    const FIELDS: &'static [&'static str];
}

macro_rules! bodies {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)+ })+) => {$(
        $(#[$meta])*
        #[derive(JsonSchema)]
        #[schemars(deny_unknown_fields)]
        #[expect(dead_code, reason = "only its schema and the names of its fields are used")]
        pub(crate) struct $name { $($(#[$field_meta])* $field: $type,)+ }

        impl RequestBody for $name {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),+];
        }
    )+};
}

bodies! {
    /// A run to start.
    NewRunBody {
        /// The function or workflow; in a pull queue any name that its workers understand.
        target: Text<TARGET_CHARS_MAX>,
        /// The input, at most 1 MiB; an empty object when not given.
        input: Option<Value>,
        /// The caller's idempotency key: the same target, id and input is the same run.
        correlation_id: Option<Text<KEY_CHARS_MAX>>,
        /// The group of a fair line; a limit where the target declares one by it.
        concurrency_key: Option<Text<KEY_CHARS_MAX>>,
        /// The queue; `default` when not given.
        queue: Option<Text<TARGET_CHARS_MAX>>,
        /// 0 (first) to 3; 2 when not given.
        priority: Option<Whole<0, 3>>,
        /// Not before this time. Not together with `delay`.
        run_at: Option<Instant>,
        /// Not before this long from now, by the database's clock.
        delay: Option<Span<0, { DELAY_MAX.as_secs() }>>,
        /// The run's id, made by the caller: the same id is the same run.
        run_id: Option<Uuid>,
        /// Kept with the run, at most 64 KiB.
        metadata: Option<Map<String, Value>>,
        /// Policy of a function's run, instead of its function's own.
        retry: Option<RetryBody>,
    }

    /// Why.
    ReasonBody {
        /// Kept with the act.
        reason: Option<Text<REASON_CHARS_MAX>>,
    }

    /// Which runs to change, and how. Nothing is done unless `dry_run` is false.
    BulkRunsBody {
        /// What to do.
        #[schemars(extend("enum" = ["cancel", "pause", "resume", "retry"]))]
        verb: Text<20>,
        /// Conditions that must all hold: `status`, `target`, `queue`, `kind`, `source` (a text or a list), `since`, `until`,
        /// `correlation_prefix`, `metadata`, `run_ids`; `{"all": true}` for everything.
        filter: Map<String, Value>,
        /// Only say what would be done; true when not given.
        dry_run: Option<bool>,
        /// Kept with every run.
        reason: Option<Text<REASON_CHARS_MAX>>,
        /// Runs of this call; 1,000 when not given.
        limit: Option<Whole<1, { BULK_MAX as i64 }>>,
        /// The `next` of the answer before.
        after: Option<Uuid>,
    }

    /// Which dead letters to redrive. Nothing is done unless `dry_run` is false.
    RedriveManyBody {
        /// Conditions that must all hold: `reason`, `target`, `queue`, `step`, `code` (a text or a list), `since`, `until`,
        /// `run_ids`; `{"all": true}` for everything.
        filter: Map<String, Value>,
        /// Only say what would be done; true when not given.
        dry_run: Option<bool>,
        /// Kept with every dead letter.
        reason: Option<Text<REASON_CHARS_MAX>>,
        /// Dead letters of this call; at most 1,000 are taken at once.
        limit: Option<Whole<1, { BULK_MAX as i64 }>>,
        /// The `next` of the answer before.
        after: Option<Uuid>,
    }

    /// How to redrive.
    RedriveBody {
        /// Another input than the first one.
        input: Option<Value>,
        /// Kept with the dead letter.
        reason: Option<Text<REASON_CHARS_MAX>>,
    }

    /// A wish for runs.
    ClaimBody {
        /// Whose claim it will be.
        worker_id: Text<WORKER_CHARS_MAX>,
        /// At most so many; 1 when not given.
        count: Option<Whole<1, { CLAIM_MAX as i64 }>>,
        /// How long the claim holds without a heartbeat: 1 second to 7 days, 30 minutes when not given.
        lease: Option<Span<{ LEASE_MIN.as_secs() }, { LEASE_MAX.as_secs() }>>,
    }

    /// A sign of life. One of `fence` and `worker_id` is required.
    HeartbeatBody {
        /// Of the claim.
        worker_id: Option<Text<WORKER_CHARS_MAX>>,
        /// Of the claim.
        fence: Option<Whole<1, { i64::MAX }>>,
        /// Another length from now on: 1 second to 7 days.
        lease: Option<Span<{ LEASE_MIN.as_secs() }, { LEASE_MAX.as_secs() }>>,
    }

    /// The end of a claimed run.
    FinishBody {
        /// `success` is another spelling of `completed`.
        #[schemars(extend("enum" = ["completed", "success", "failed", "cancelled", "skipped"]))]
        status: Text<16>,
        /// The result, at most 1 MiB.
        output: Option<Value>,
        /// Why it failed, at most 1 MiB.
        error: Option<Value>,
        /// Added to the run's, at most 64 KiB.
        metadata: Option<Map<String, Value>>,
        /// Of the claim.
        fence: Option<Whole<1, { i64::MAX }>>,
        /// Of the claim, where there is no fence.
        worker_id: Option<Text<WORKER_CHARS_MAX>>,
    }

    /// An event of a run.
    NewEventBody {
        /// `info` when not given.
        #[schemars(extend("enum" = ["debug", "info", "warn", "error", null]))]
        level: Option<Text<16>>,
        /// A line for people.
        message: Text<MESSAGE_CHARS_MAX>,
        /// For programs, at most 64 KiB.
        payload: Option<Map<String, Value>>,
        /// `log` when not given.
        event_type: Option<Text<TARGET_CHARS_MAX>>,
        /// Only while this claim is held.
        fence: Option<Whole<1, { i64::MAX }>>,
    }

    /// Something that a run made, kept elsewhere.
    NewArtifactBody {
        /// `file` when not given.
        kind: Option<Text<TARGET_CHARS_MAX>>,
        /// Its name, such as a path.
        name: Text<NAME_CHARS_MAX>,
        /// Where it lies.
        uri: Option<Text<URI_CHARS_MAX>>,
        /// 64 lower-case hexadecimal digits.
        #[schemars(extend("pattern" = "^[0-9a-f]{64}$"))]
        sha256: Option<Text<64>>,
        /// Its size.
        bytes: Option<Whole<0, { i64::MAX }>>,
        /// At most 64 KiB.
        metadata: Option<Map<String, Value>>,
        /// Somebody has checked that the uri holds what the digest says.
        validated: Option<bool>,
        /// Only while this claim is held.
        fence: Option<Whole<1, { i64::MAX }>>,
    }

    /// A link to a public function.
    NewLinkBody {
        /// The function.
        function: Text<PART_CHARS_MAX>,
        /// The path below the function, encoded as in a URL.
        #[schemars(extend("pattern" = "^[A-Za-z0-9._~!$&'()*+,;=:@/%-]*$"))]
        path: Option<Text<PART_CHARS_MAX>>,
        /// The query, without `?`, encoded as in a URL.
        #[schemars(extend("pattern" = "^[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*$"))]
        query: Option<Text<PART_CHARS_MAX>>,
        /// `GET` when not given.
        #[schemars(extend("enum" = ["GET", "POST", "PUT", "PATCH", "DELETE", null]))]
        method: Option<Text<16>>,
        /// Seconds, at most 30 days; an hour when not given.
        expires_in: Option<Whole<1, 2_592_000>>,
    }

    /// Which period to start.
    TriggerBody {
        /// A due time of the schedule in the past; none starts a run outside its periods.
        period: Option<Instant>,
    }

    /// A span of periods.
    BackfillBody {
        /// The first instant that counts.
        from: Instant,
        /// The first one that does not count any more.
        to: Instant,
        /// Only say what would be done; false when not given.
        dry_run: Option<bool>,
    }
}

/// When a failed call is made again. What it lacks is as in the defaults.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "read by tramline-core")]
pub(crate) struct RetryBody {
    /// All attempts, the first included; 4 when not given.
    max_attempts: Option<Whole<1, 100>>,
    /// How delays grow; `exponential` when not given.
    #[schemars(extend("enum" = ["fixed", "linear", "exponential", null]))]
    backoff: Option<Text<16>>,
    /// Delay after the first failed attempt; 1 s when not given.
    initial: Option<Span<0, { DELAY_MAX.as_secs() }>>,
    /// No delay is longer; 5 min when not given.
    max: Option<Span<0, { DELAY_MAX.as_secs() }>>,
    /// Draws each delay between half and all of its bound; true when not given.
    jitter: Option<bool>,
    /// Only these are tried again: codes, HTTP statuses, classes such as `5xx`.
    on: Option<Vec<Value>>,
    /// These are not tried again.
    not_on: Option<Vec<Value>>,
}

/// One run, or a list of them.
pub(crate) enum StartBody {}

impl JsonSchema for StartBody {
    fn schema_name() -> Cow<'static, str> {
        "StartBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let run = generator.subschema_for::<NewRunBody>();
        json_schema!({
            "description": "One run, or a list of runs that are accepted or refused each for itself",
            "oneOf": [run, { "type": "array", "items": run, "minItems": 1, "maxItems": RUNS_PER_REQUEST_MAX }],
        })
    }
}

/// A schedule, as its file holds it. One of `cron` and `every` is required.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "read by tramline-core")]
pub(crate) struct ScheduleBody {
    /// The name in the address.
    name: Option<Text<128>>,
    /// An expression of five or six fields, or a nickname.
    cron: Option<Text<512>>,
    /// An interval, 1 s to 366 days.
    every: Option<Span<1, YEAR_S>>,
    /// Where an interval counts from; the time it is stored when not given.
    anchor: Option<Instant>,
    /// An IANA name; UTC when not given.
    timezone: Option<Text<64>>,
    /// A function or workflow that exists.
    target: Text<TARGET_CHARS_MAX>,
    /// Input of every run.
    input: Option<Value>,
    /// False pauses the schedule.
    enabled: Option<bool>,
    /// Queue of its runs.
    queue: Option<Text<TARGET_CHARS_MAX>>,
    /// Priority of its runs; 1 when not given.
    priority: Option<Whole<0, 3>>,
    /// Each period starts up to so much after its due time.
    jitter: Option<Span<0, YEAR_S>>,
    /// No period before.
    start_at: Option<Instant>,
    /// None after.
    end_at: Option<Instant>,
    /// Names of calendars on whose days nothing is due.
    exclude: Option<Vec<Text<128>>>,
    /// What happens when a run of an earlier period goes on; `allow` when not given.
    #[schemars(extend("enum" = ["allow", "skip", "queue", "cancel_older", null]))]
    overlap: Option<Text<16>>,
    /// What happens to missed periods; `skip` when not given.
    #[schemars(extend("enum" = ["skip", "last", "all", null]))]
    catch_up: Option<Text<16>>,
    /// So many missed periods at most; 100 when not given.
    catch_up_max: Option<Whole<1, 1_000>>,
    /// A start later than this is told with an event; 5 min when not given.
    late_after: Option<Span<0, YEAR_S>>,
}

/// Days and times on which schedules that name it are not due.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "read by tramline-core")]
pub(crate) struct CalendarBody {
    /// The name in the address.
    name: Option<Text<128>>,
    /// Zone of the days; the schedule's when not given.
    timezone: Option<Text<64>>,
    /// Days (`2026-12-25`), days of every year (`12-25`), spans of either, spans of two instants.
    /// Required; null means none.
    #[schemars(length(max = 1_000))]
    exclude: Option<Vec<Text<64>>>,
}

/// Settings of a queue. Those that are not named stay as they are; null takes a limit away.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the database")]
pub(crate) struct QueueSettings {
    /// Who executes its runs; never changes.
    #[schemars(extend("enum" = ["engine", "pull", null]))]
    mode: Option<Text<16>>,
    /// So many runs at once.
    concurrency: Option<Whole<1, { i32::MAX as i64 }>>,
    /// Starts per time.
    rate: Option<RateBody>,
    /// Strictly in the order of discovery.
    fifo: Option<bool>,
    /// Of a pull queue: so many claims of a run may be lost before it is a dead letter.
    claims_max: Option<Whole<1, { i32::MAX as i64 }>>,
    /// Nothing of it is started.
    paused: Option<bool>,
    /// For people.
    description: Option<String>,
    /// Why it is changed: kept with the change.
    reason: Option<Text<REASON_CHARS_MAX>>,
}

/// A new queue.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by the database")]
pub(crate) struct NewQueueBody {
    /// A letter or digit, then letters, digits and `_ . : -`.
    #[schemars(extend("pattern" = "^[a-zA-Z0-9][a-zA-Z0-9_.:-]{0,127}$"))]
    name: Text<128>,
    /// Its settings.
    #[schemars(flatten)]
    settings: QueueSettings,
}

/// Starts per time.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "read by the database")]
pub(crate) struct RateBody {
    /// So many.
    count: Whole<1, { i32::MAX as i64 }>,
    /// In this time, at most 366 days.
    #[schemars(extend("pattern" = r"^\d+(\.\d+)? ?[a-z]+$"))]
    per: Text<64>,
    /// So many at once after a quiet time; `count` when not given.
    burst: Option<Whole<1, { i32::MAX as i64 }>>,
}

/// A workflow definition; its language is checked when it is published, and every problem told with its place.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read by tramline-core")]
pub(crate) struct DefinitionBody {
    /// A letter or `_`, then letters, digits, `_`, `-`.
    name: Text<100>,
    /// Shown in lists.
    description: Option<String>,
    /// In order, unless `needs` makes a graph of them.
    #[schemars(length(min = 1, max = 500))]
    steps: Vec<Map<String, Value>>,
    /// Fields that every input must have.
    required_fields: Option<Vec<String>>,
    /// A JSON Schema of the input.
    input_schema: Option<Map<String, Value>>,
    /// Deadline of the run, in seconds.
    timeout_seconds: Option<f64>,
}
