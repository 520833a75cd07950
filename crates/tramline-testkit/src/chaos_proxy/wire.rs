//! The messages of a connection: requests and replies, whole and in their order.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::Faults;
use super::hold::{Stop, Verdict};

const CHUNK_BYTES: usize = 16 * 1024;

/// What to do with the answer of a request.
enum Answer {
    Deliver,
    /// Of the second sending of one request: its client knows of one.
    Swallow,
    /// Deliver it when the test says so.
    Hold(Stop),
}

/// The answers that are outstanding; each ends with ReadyForQuery. Of the start of a connection one comes unasked.
pub(super) struct Expected(Mutex<VecDeque<Answer>>);

impl Default for Expected {
    fn default() -> Self {
        Self(Mutex::new(VecDeque::from([Answer::Deliver])))
    }
}

impl Expected {
    fn push(&self, answer: Answer) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(answer);
    }

    fn is_swallowed(&self) -> bool {
        let expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(expected.front(), Some(Answer::Swallow))
    }

    fn pop(&self) -> Option<Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// The length of the first message of a buffer with its type byte, once the message is whole.
fn whole(buffer: &[u8]) -> Option<usize> {
    let [_, a, b, c, d, ..] = *buffer else { return None };
    // the length counts itself, not the type byte
    let length = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
    (buffer.len() >= length).then_some(length)
}

fn text(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let rest = bytes.get(end + 1..).unwrap_or_default();
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), rest)
}

/// The texts of prepared statements, and the request that is being read.
#[derive(Default)]
struct Requests {
    prepared: HashMap<String, String>,
    group: Vec<u8>,
    /// The text of the statement that the group binds, and whether it is executed.
    bound: Option<String>,
    executes: bool,
    /// The text of a request that is text alone.
    simple: Option<String>,
}

impl Requests {
    /// Takes one message; true when it ends a request that is answered.
    fn take(&mut self, message: &[u8]) -> bool {
        self.group.extend_from_slice(message);
        match message[0] {
            b'P' => {
                let (name, rest) = text(&message[5..]);
                self.prepared.insert(name, text(rest).0);
            }
            b'B' => {
                let (_portal, rest) = text(&message[5..]);
                self.bound = self.prepared.get(&text(rest).0).cloned();
            }
            b'E' => self.executes = true,
            b'Q' => self.simple = Some(text(&message[5..]).0),
            _ => {}
        }
        matches!(message[0], b'S' | b'Q')
    }

    /// Whether more has to come before anything is sent on.
    fn is_open(&self, message: &[u8]) -> bool {
        matches!(message[0], b'P' | b'B' | b'D' | b'E' | b'C')
    }

    /// The request with the statement that it executes.
    fn finish(&mut self) -> (Vec<u8>, Option<String>) {
        let bound = self.bound.take().filter(|_| self.executes);
        self.executes = false;
        (std::mem::take(&mut self.group), bound)
    }
}

/// A request in place of another: the server refuses it with this SQLSTATE.
fn refusal(sqlstate: &str) -> Vec<u8> {
    let sql =
        format!("do $$ begin raise exception 'refused by the test' using errcode = '{sqlstate}'; end $$\0");
    let length = u32::try_from(sql.len() + 4).unwrap_or(u32::MAX);
    [&b"Q"[..], &length.to_be_bytes(), sql.as_bytes()].concat()
}

pub(super) async fn copy_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut untyped: usize,
    expected: &Expected,
    faults: &Faults,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    let mut requests = Requests::default();
    loop {
        let read = from.read_buf(&mut buffer).await?;
        if read == 0 || !faults.may_forward().await {
            return Ok(());
        }
        let start = untyped.min(buffer.len());
        to.write_all(&buffer[..start]).await?;
        buffer.drain(..start);
        untyped -= start;
        while let Some(length) = whole(&buffer) {
            let message: Vec<u8> = buffer.drain(..length).collect();
            let answered = requests.take(&message);
            if !answered && requests.is_open(&message) {
                continue;
            }
            let (request, statement) = requests.finish();
            if !answered {
                to.write_all(&request).await?;
                continue;
            }
            if let Some(text) = statement.clone().or(requests.simple.take()) {
                faults.note(text);
            }
            let (before, after) = faults.holds.stop_at(statement.as_deref());
            let verdict = match before {
                Some(stop) => stop.verdict().await,
                None => Verdict::GoOn,
            };
            let (verdict, after) = match verdict {
                Verdict::GoOnAndHold(stop) => (Verdict::GoOn, Some(stop)),
                verdict => (verdict, after),
            };
            expected.push(after.map_or(Answer::Deliver, Answer::Hold));
            match verdict {
                Verdict::GoOn | Verdict::GoOnAndHold(_) => to.write_all(&request).await?,
                Verdict::Twice => {
                    expected.push(Answer::Swallow);
                    to.write_all(&[&request[..], &request[..]].concat()).await?;
                }
                Verdict::Refuse(sqlstate) => to.write_all(&refusal(sqlstate)).await?,
                Verdict::Cut => return Ok(()),
            }
        }
    }
}

pub(super) async fn copy_replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    expected: &Expected,
    faults: &Faults,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    loop {
        let read = from.read_buf(&mut buffer).await?;
        let delay = *faults.delay.borrow();
        tokio::time::sleep(delay).await;
        if read == 0 || !faults.may_forward().await {
            return Ok(());
        }
        while let Some(length) = whole(&buffer) {
            let message: Vec<u8> = buffer.drain(..length).collect();
            let kind = message[0];
            let swallowed = expected.is_swallowed();
            let answer = (kind == b'Z').then(|| expected.pop()).flatten();
            if swallowed {
                continue;
            }
            if let Some(Answer::Hold(stop)) = answer
                && matches!(stop.verdict().await, Verdict::Cut)
            {
                return Ok(());
            }
            if faults.takes(kind, &message[5..]) {
                // in this order: who waits for the cut may rely on the connection being closed
                drop((from, to));
                faults.cuts_done.send_modify(|done| *done += 1);
                return Ok(());
            }
            to.write_all(&message).await?;
        }
    }
}
