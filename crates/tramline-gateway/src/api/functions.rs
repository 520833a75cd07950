//! `/api/v1/functions` and their logs.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};

use super::answers::ListedFunction;
use super::fields::{Problems, Query};
use super::{ApiCall, json_answer};
use crate::auth::GuardAuth;
use crate::body::{Body, boxed};
use crate::error::Fault;
use crate::functions::{Followed, LogLine};
use crate::limits::LOG_TAIL_MAX;

/// Lines sent when the caller does not say.
const TAIL_DEFAULT: usize = 100;
/// A followed log that is quiet says so, so that proxies keep the connection; below their usual 30 s.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) fn list(call: &ApiCall<'_>) -> Result<Response<Body>, Fault> {
    let list: Vec<ListedFunction> = call
        .functions
        .list()
        .into_iter()
        .map(|info| {
            let auth = call.guards.get(&info.name).map(|guard| guard.auth);
            ListedFunction {
                auth: auth.unwrap_or(GuardAuth::Jwt),
                warning: call.misuses.of(&info.name),
                info,
            }
        })
        .collect();
    json_answer(StatusCode::OK, &list)
}

#[derive(Clone, Copy)]
enum Format {
    Ndjson,
    Sse,
}

impl Format {
    fn of(request: &Request<Body>) -> Self {
        let sse = |value: &HeaderValue| {
            value
                .to_str()
                .is_ok_and(|text| text.contains("text/event-stream"))
        };
        if request.headers().get_all(ACCEPT).iter().any(sse) {
            Self::Sse
        } else {
            Self::Ndjson
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Sse => "text/event-stream",
        })
    }

    fn line(self, event: &str, value: &Value) -> Bytes {
        match self {
            Self::Ndjson => format!("{value}\n"),
            Self::Sse => format!("event: {event}\ndata: {value}\n\n"),
        }
        .into()
    }

    fn heartbeat(self) -> Bytes {
        Bytes::from_static(match self {
            // An empty line is skipped by every NDJSON reader.
            Self::Ndjson => b"\n",
            Self::Sse => b": quiet\n\n",
        })
    }
}

pub(super) fn logs(call: &ApiCall<'_>, name: &str, request: &Request<Body>) -> Result<Response<Body>, Fault> {
    if !call.functions.exists(name) {
        return Err(Fault::not_found("function", name));
    }
    let mut problems = Problems::default();
    let query = Query::parse(
        request.uri(),
        &["tail", "follow", "run", "request", "level"],
        &mut problems,
    );
    let tail = query
        .number("tail", 0, LOG_TAIL_MAX, &mut problems)
        .unwrap_or(TAIL_DEFAULT);
    let follow = match query.get("follow") {
        None | Some("0" | "false") => false,
        Some("" | "1" | "true") => true,
        Some(_) => {
            problems.add("follow", "follow must be 0 or 1");
            false
        }
    };
    let wanted = Wanted::read(&query, name, &mut problems);
    problems.finish(())?;
    let format = Format::of(request);
    // Subscribe before looking: a line written in between is seen twice at worst, and the overlap is cut below.
    let live = follow.then(|| call.functions.follow_logs());
    let mut recent = call.functions.recent_logs(name, wanted.scanned(tail));
    recent.retain(|line| wanted.takes(line));
    recent.drain(..recent.len().saturating_sub(tail));
    let body = match live {
        None => boxed(StreamBody::new(frames(stream::iter(
            recent
                .into_iter()
                .map(move |line| format.line("log", &json!(line))),
        )))),
        Some(live) => {
            let overlap = recent.clone();
            let live = live.filter_map(move |item| {
                let piece = live_piece(format, &wanted, &overlap, item);
                async move { piece }
            });
            let quiet = stream::unfold((), move |()| async move {
                tokio::time::sleep(HEARTBEAT).await;
                Some((format.heartbeat(), ()))
            });
            let start = stream::iter(
                recent
                    .into_iter()
                    .map(move |line| format.line("log", &json!(line))),
            );
            // The live stream's end must end the answer, the heartbeat alone must not go on.
            let live = live.map(Some).chain(stream::once(async { None }));
            let both = stream::select(live, quiet.map(Some)).take_while(|piece| {
                let more = piece.is_some();
                async move { more }
            });
            let stop = call.stop.clone().cancelled_owned();
            let pieces = start
                .chain(both.filter_map(|piece| async move { piece }))
                .take_until(Box::pin(stop));
            boxed(StreamBody::new(frames(pieces)))
        }
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, format.content_type());
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Which lines of a log are asked for.
struct Wanted {
    function: String,
    run: Option<String>,
    request: Option<String>,
    /// Position in [`LEVELS`].
    level: usize,
}

/// From the least to the most important.
const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

impl Wanted {
    fn read(query: &Query, function: &str, problems: &mut Problems) -> Self {
        let level = query
            .get("level")
            .map(|level| LEVELS.iter().position(|name| *name == level));
        if level == Some(None) {
            problems.add("level", "level must be debug, info, warn or error");
        }
        Self {
            function: function.to_owned(),
            run: query.get("run").map(str::to_owned),
            request: query.get("request").map(str::to_owned),
            level: level.flatten().unwrap_or(0),
        }
    }

    /// How many lines have to be looked through to find so many.
    fn scanned(&self, tail: usize) -> usize {
        let all = self.run.is_none() && self.request.is_none() && self.level == 0;
        if all { tail } else { usize::MAX }
    }

    fn takes(&self, line: &LogLine) -> bool {
        let level = LEVELS
            .iter()
            .position(|name| *name == line.level)
            .unwrap_or(LEVELS.len());
        line.function == self.function
            && level >= self.level
            && self
                .run
                .as_ref()
                .is_none_or(|run| line.run_id.as_ref() == Some(run))
            && self
                .request
                .as_ref()
                .is_none_or(|id| line.request_id.as_ref() == Some(id))
    }
}

fn live_piece(format: Format, wanted: &Wanted, overlap: &[LogLine], item: Followed) -> Option<Bytes> {
    match item {
        Followed::Line(line) if !wanted.takes(&line) => None,
        Followed::Line(line) => {
            let seen =
                |old: &LogLine| old.at == line.at && old.message == line.message && old.stream == line.stream;
            (!overlap.iter().any(seen)).then(|| format.line("log", &json!(line)))
        }
        Followed::Missed(count) => Some(format.line("missed", &json!({ "missed": count }))),
    }
}

fn frames(
    pieces: impl Stream<Item = Bytes> + Send,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    pieces.map(|piece| Ok(Frame::data(piece)))
}
