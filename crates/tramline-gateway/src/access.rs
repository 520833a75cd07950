//! The access log: one line per request, written when its answer has ended. Queries are left out, since links carry their
//! tokens there.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::USER_AGENT;
use http::{Method, Request, Version};
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::server::Visit;
use crate::trace::TraceId;

/// Status of a request whose client went away before the answer.
pub(crate) const CLIENT_GONE: u16 = 499;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// Words with spaces between them.
    Text,
    /// A JSON object.
    Json,
}

/// Where lines go.
#[derive(Clone)]
pub struct AccessLog {
    /// How a line looks.
    pub format: AccessFormat,
    /// Time to the head of an answer from which a request is marked as slow.
    pub slow: Duration,
    /// Takes a line without its end; must not block.
    pub write: Arc<dyn Fn(String) + Send + Sync>,
}

/// A request on its way into the log. It is written when dropped, so that none is missing, however it ended.
pub(crate) struct Entry {
    log: AccessLog,
    at: Timestamp,
    started: Instant,
    request_id: Uuid,
    trace: Option<TraceId>,
    client: IpAddr,
    method: Method,
    path: String,
    version: Version,
    agent: Option<String>,
    status: u16,
    head: Option<Duration>,
    sent: u64,
}

impl Entry {
    pub(crate) fn begin<B>(log: &AccessLog, visit: &Visit, request: &Request<B>) -> Box<Self> {
        let agent = request.headers().get(USER_AGENT);
        Box::new(Self {
            log: log.clone(),
            at: Timestamp::now(),
            started: Instant::now(),
            request_id: visit.request_id,
            trace: visit.trace,
            client: visit.client,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            version: request.version(),
            agent: agent.map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned()),
            status: CLIENT_GONE,
            head: None,
            sent: 0,
        })
    }

    /// The head of the answer is there.
    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
        self.head = Some(self.started.elapsed());
    }

    /// So many bytes of its body are on their way.
    pub(crate) fn sends(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    fn is_slow(&self) -> bool {
        self.head.unwrap_or_else(|| self.started.elapsed()) >= self.log.slow
    }

    fn json(&self) -> String {
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let mut line = json!({
            "at": self.at.to_string(),
            "request_id": self.request_id,
            "client": self.client,
            "method": self.method.as_str(),
            "path": self.path,
            "protocol": format!("{:?}", self.version),
            "status": self.status,
            "sent_bytes": self.sent,
            "took_ms": ms(self.started.elapsed()),
        });
        if let Some(head) = self.head {
            line["head_ms"] = json!(ms(head));
        }
        if let Some(trace) = self.trace {
            line["trace_id"] = json!(trace.to_string());
        }
        if let Some(agent) = &self.agent {
            line["user_agent"] = json!(agent);
        }
        if self.is_slow() {
            line["slow"] = json!(true);
        }
        line.to_string()
    }

    fn text(&self) -> String {
        let mut line = format!(
            "{:.3} {} {} {} {:?} {} {} {:.3}ms {}",
            self.at,
            self.client,
            self.method,
            // Lines are one request each, whatever a path holds.
            self.path.escape_debug(),
            self.version,
            self.status,
            self.sent,
            self.started.elapsed().as_secs_f64() * 1e3,
            self.request_id,
        );
        // Writing to a String cannot fail.
        if let Some(trace) = self.trace {
            let _ = write!(line, " trace={trace}");
        }
        if let Some(agent) = &self.agent {
            let _ = write!(line, " {agent:?}");
        }
        if self.is_slow() {
            line.push_str(" slow");
        }
        line
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let line = match self.log.format {
            AccessFormat::Text => self.text(),
            AccessFormat::Json => self.json(),
        };
        (self.log.write)(line);
    }
}
