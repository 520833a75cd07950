//! Every limit of the gateway with the reason for its default.

use std::time::Duration;

use tramline_core::limit::Rate;
use tramline_core::limits::REQUEST_BODY_MAX_BYTES;

/// Time for a client to send a request head, from its first byte; also for the first byte of a new connection.
/// A client on a bad mobile link needs a few seconds, a slow-header attack needs many.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a connection may stay open between requests; above the 60 s that load balancers commonly use, so that
/// the balancer closes first and never sends a request into a closing connection.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a connection without requests keeps the memory that serving takes: longer than the pauses of a busy client.
pub const PARK_AFTER: Duration = Duration::from_secs(1);
/// Longest pause between two pieces of a request body.
pub const BODY_IDLE: Duration = Duration::from_secs(30);
/// Bytes per second of waiting, beyond [`BODY_IDLE`], that a body must have which is read whole before it is used: below any
/// line that people have, and enough that holding many such requests open is work.
pub const BODY_RATE_MIN: f64 = 1_024.0;
/// Longest time a client may refuse to take response bytes that are ready.
pub const WRITE_STALL: Duration = Duration::from_secs(60);
/// How long a connection that is closed before its client has sent everything takes further bytes, only to drop them: closed
/// at once, the kernel would reset it, and a client that reads the answer after it has sent its body would never see why.
pub const LINGER_MAX: Duration = Duration::from_secs(30);
/// A client that sends less than [`BODY_RATE_MIN`] in such a period is not waited for.
pub const LINGER_PERIOD: Duration = Duration::from_secs(2);
/// Connections beyond a cap, or in plain HTTP on a port with TLS, that are closed in this way at a time; each holds a descriptor and
/// 16 KiB. Those of a flood, which are far more, are closed at once.
pub const REFUSED_LINGER_MAX: usize = 64;
/// Open connections in total; each holds one descriptor and at most two 64 KiB buffers.
pub const CONNECTIONS_MAX: usize = 8_192;
/// Open connections of one client address. High, because a proxy in front makes all clients one address.
pub const CONNECTIONS_PER_IP_MAX: usize = 2_048;
/// Request headers: hyper's own default, answered 431; checked again for HTTP/2.
pub const HEADERS_MAX: usize = 100;
/// Request head and read buffer of a connection.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Concurrent HTTP/2 streams of one connection.
pub const H2_STREAMS_MAX: u32 = 128;
/// Streams a client may reset before the gateway has seen them (rapid reset).
pub const H2_PENDING_RESETS_MAX: usize = 32;
/// Request body of a function.
pub const FUNCTION_BODY_MAX: u64 = REQUEST_BODY_MAX_BYTES as u64;
/// Request body of `/rest/v1` and `/auth/v1`: bulk inserts, as large as a function's body.
pub const BACKEND_BODY_MAX: u64 = REQUEST_BODY_MAX_BYTES as u64;
/// Request body of `/api/v1`: an array of runs with their inputs.
pub const API_BODY_MAX: u64 = 16 * 1024 * 1024;
/// Request body that is read on its connection's thread, beside all other connections there: parsed in some 50 µs.
pub const LANE_BODY_MAX: u64 = 16 * 1024;
/// Body of an upload: the largest sources that are bundled, and the form around them.
pub const UPLOAD_BODY_MAX: u64 = tramline_core::deploy::SOURCES_MAX_BYTES + 2 * 1024 * 1024;
/// Configuration of an uploaded function.
pub const METADATA_MAX: usize = 64 * 1024;
/// Functions that one request makes active: a whole large project.
pub const FUNCTIONS_PER_REQUEST_MAX: usize = 1_000;
/// Longest life of an access token that expires, in seconds: ten years; who wants more makes one that does not.
pub const TOKEN_LIFE_MAX_S: i64 = 10 * 365 * 24 * 3600;
/// Input of one run.
pub const RUN_INPUT_MAX: usize = 1024 * 1024;
/// Runs in one request: one transaction of the store.
pub const RUNS_PER_REQUEST_MAX: usize = 1_000;
/// Rows of one list answer.
pub const LIST_MAX: u16 = 500;
/// Rows of one list answer when the caller does not say.
pub const LIST_DEFAULT: u16 = 50;
/// Runs that one bulk request may change: some tens of milliseconds of inserted commands.
pub const BULK_MAX: i32 = 10_000;
/// Runs that one bulk request changes when the caller does not say.
pub const BULK_DEFAULT: i32 = 1_000;
/// Longest wait for the end of a run in one request.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Runs in one claim: with inputs of the largest size the answer has 100 MB.
pub const CLAIM_MAX: u16 = 100;
/// How long a claim holds without a heartbeat, when the worker does not say.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// Shorter, a lease is over before its worker has read the answer.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// Longer, nobody waits for a worker that died.
pub const LEASE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Log lines sent before following.
pub const LOG_TAIL_MAX: usize = 10_000;
/// Time without the head of a function's answer after which the platform answers 504, as on the platform.
pub const FUNCTION_IDLE: Duration = Duration::from_secs(150);
/// Calls from function to function in one chain.
pub const DEPTH_MAX: u32 = 10;
/// A token longer than this is refused before anything of it is parsed.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Nesting of a token's header and claims.
pub const TOKEN_DEPTH_MAX: usize = 16;
/// Nesting of a JSON body.
pub const JSON_DEPTH_MAX: usize = 64;
/// Body of a webhook: it is held in memory until its signature is verified. Events of the common senders have some
/// kilobytes; what is larger comes as a reference.
pub const WEBHOOK_BODY_MAX: u64 = 4 * 1024 * 1024;
/// Distance between the signed time of a webhook and now that is accepted when nothing else is set: what Stripe and
/// Standard Webhooks recommend.
pub const WEBHOOK_TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// Body of a request that is looked into or kept by key: it is held in memory whole, like a webhook's.
pub const WHOLE_BODY_MAX: u64 = WEBHOOK_BODY_MAX;
/// Answer that is kept by idempotency key, with its headers: one row of the database each, read whole for each repetition.
pub const KEPT_ANSWER_MAX: usize = 1024 * 1024;
/// Problems of one body that are told: enough to correct a request by, not a report on a large list.
pub const SCHEMA_PROBLEMS_MAX: usize = 20;
/// Longest idempotency key; common clients send UUIDs.
pub const IDEMPOTENCY_KEY_MAX: usize = 255;
/// How long a repeated request waits for the first one: below the idle times of clients and balancers in front.
pub const IDEMPOTENCY_WAIT: Duration = Duration::from_secs(30);
/// How long a key is held without a sign of life of its node; renewed at a third. A key of a node that died is free so
/// much later.
pub const IDEMPOTENCY_LEASE: Duration = Duration::from_secs(30);
/// First and longest pause between two looks at a key that another node works on.
pub const IDEMPOTENCY_POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Requests that may wait for others of the same key at once: each looks into the database once a second.
pub const IDEMPOTENCY_WAITING_MAX: usize = 256;
/// Pauses before an answer is recorded again; a database that fails over is back by then, or the client is told.
pub const IDEMPOTENCY_RECORD_PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(4),
];
/// How long the keys of signed links are remembered: so long a withdrawn key works on.
pub const LINK_KEYS_FRESH: Duration = Duration::from_secs(30);
/// Pause between questions for keys that are not there: anybody can invent a name.
pub const LINK_KEYS_PAUSE: Duration = Duration::from_secs(5);
/// An issuer's key set: a hundred RSA keys of 4096 bits.
pub const KEY_SET_BYTES_MAX: usize = 64 * 1024;
/// Keys of one issuer; each is compared by name for every token.
pub const KEY_SET_KEYS_MAX: usize = 100;
/// How long one fetch of a key set may take; requests wait for it.
pub const KEY_SET_FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Age from which a key set is fetched again beside the requests: what issuers themselves allow caches.
pub const KEY_SET_FRESH: Duration = Duration::from_secs(10 * 60);
/// Age from which a key set is not believed any more, although nothing newer can be had: how long a revoked key works at
/// most when somebody cuts the way to the issuer.
pub const KEY_SET_STALE_MAX: Duration = Duration::from_secs(60 * 60);
/// Pause after a fetch that failed: a broken issuer is not asked once per request.
pub const KEY_SET_RETRY: Duration = Duration::from_secs(5);
/// Pause between fetches for keys that the set does not have: anybody can invent a name.
pub const KEY_SET_UNKNOWN_KID_PAUSE: Duration = Duration::from_secs(30);
/// Clock difference forgiven in `exp`, `nbf` and `iat`, in seconds.
pub const TOKEN_LEEWAY_S: u64 = 30;
/// Tokens that are remembered once they are verified: with the next one some megabytes.
pub const REMEMBERED_TOKENS_MAX: usize = 2_048;
/// Longest token that is remembered; those of users have some hundred bytes.
pub const REMEMBERED_TOKEN_BYTES_MAX: usize = 2_048;
/// Life of a token minted for the REST and auth backends; only the start of a request is checked, so short.
pub const INTERNAL_TOKEN_LIFE_S: i64 = 120;
/// Shortest HMAC secret.
pub const SECRET_BYTES_MIN: usize = tramline_core::limits::JWT_SECRET_MIN_BYTES;

/// The limits that a configuration may change.
#[derive(Debug, Clone)]
pub struct Limits {
    /// See [`HEADER_TIMEOUT`].
    pub header_timeout: Duration,
    /// See [`KEEP_ALIVE`].
    pub keep_alive: Duration,
    /// See [`PARK_AFTER`].
    pub park_after: Duration,
    /// See [`BODY_IDLE`].
    pub body_idle: Duration,
    /// See [`WRITE_STALL`].
    pub write_stall: Duration,
    /// See [`CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// See [`CONNECTIONS_PER_IP_MAX`].
    pub connections_per_ip_max: usize,
    /// Bytes; see [`FUNCTION_BODY_MAX`].
    pub function_body_max: u64,
    /// Bytes; see [`BACKEND_BODY_MAX`].
    pub backend_body_max: u64,
    /// See [`FUNCTION_IDLE`].
    pub function_idle: Duration,
    /// See [`IDEMPOTENCY_WAIT`].
    pub idempotency_wait: Duration,
    /// Requests of one client address, an IPv6 network counting as one; none when not limited. Calls that functions make
    /// to their own project are not counted.
    pub rate_per_ip: Option<Rate>,
    /// Requests of one caller: a user by `sub`, else all callers of a role; none when not limited.
    pub rate_per_key: Option<Rate>,
    /// How long a node that stops still serves new requests while it says that it is not ready: what a balancer needs to
    /// see it.
    pub drain_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: HEADER_TIMEOUT,
            keep_alive: KEEP_ALIVE,
            park_after: PARK_AFTER,
            body_idle: BODY_IDLE,
            write_stall: WRITE_STALL,
            connections_max: CONNECTIONS_MAX,
            connections_per_ip_max: CONNECTIONS_PER_IP_MAX,
            function_body_max: FUNCTION_BODY_MAX,
            backend_body_max: BACKEND_BODY_MAX,
            function_idle: FUNCTION_IDLE,
            idempotency_wait: IDEMPOTENCY_WAIT,
            rate_per_ip: None,
            rate_per_key: None,
            drain_delay: Duration::ZERO,
        }
    }
}
