//! HTTP/1.1 as a client speaks it over a unix socket: bytes of a request's head, a response's head out of bytes, and where
//! its body ends.
//!
//! It is our own because a general client gives every connection a task of its own, and the way there and back through it
//! costs a call more than everything else that the host does for it. What is parsed comes from a function's process, which
//! is not trusted: whatever is in doubt is an error, and the connection is not used again.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use httparse::ParserConfig;

/// Headers of an answer, as many as the gateway takes of a request.
pub const HEADERS_MAX: usize = 100;
/// Room for the headers that an answer gets on its way to a client.
const HEADERS_ADDED: usize = 6;
/// Bytes of an answer's head.
pub const HEAD_BYTES_MAX: usize = 400 << 10;
/// Bytes of what follows the last chunk.
const TRAILER_BYTES_MAX: usize = 64 << 10;
/// Bytes of a line that begins a chunk: its size in hex, and extensions that nobody reads.
const CHUNK_LINE_MAX: usize = 1 << 10;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the head of the answer is not HTTP/1.1")]
    Head,
    #[error("the head of the answer is larger than {HEAD_BYTES_MAX} bytes")]
    HeadTooLarge,
    #[error("the answer says twice or wrongly where it ends")]
    Framing,
    #[error("a chunk of the answer is malformed")]
    Chunk,
}

/// How a request's body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    Nothing,
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
}

impl Sending {
    pub fn of(body: &impl http_body::Body) -> Self {
        if body.is_end_stream() {
            return Self::Nothing;
        }
        match body.size_hint().exact() {
            Some(length) => Self::Length(length),
            None => Self::Chunked,
        }
    }
}

/// Writes a request's head, with `prefix` in front of its path.
pub fn write_head<B>(request: &Request<B>, prefix: &str, sending: Sending, out: &mut BytesMut) {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let headers = request.headers();
    // Short lines, two separators each.
    out.reserve(128 + prefix.len() + path.len() + headers.len() * 64);
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in headers {
        // Both say how the body ends, which is decided here; nobody waits for a `100 Continue` over a local socket.
        if *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING || *name == header::EXPECT {
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match sending {
        Sending::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Sending::Length(length) => write_length(length, out),
        // A body would have a meaning here, so that there is none has to be said.
        Sending::Nothing if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) => {
            write_length(0, out);
        }
        Sending::Nothing => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn write_length(length: u64, out: &mut BytesMut) {
    out.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
}

/// Where an answer's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunk),
    /// With the connection.
    Close,
    /// Not at all: the connection is something else from now on.
    Upgraded,
}

/// What comes next of a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// The line with its size.
    Size,
    /// So many bytes of it.
    Data(u64),
    /// Its line end.
    End,
    /// The lines after the last one; so many bytes of them have been.
    Trailer(usize),
    Over,
}

/// An answer's head.
#[derive(Debug)]
pub struct Head {
    pub response: Response<()>,
    pub framing: Framing,
    /// Whether the connection may be used again once the body is over.
    pub keeps: bool,
}

/// Takes a head from the bytes that have come; none when it is not complete. Interim answers (1xx) are passed over. How many
/// bytes of an incomplete one were `looked` at is for the next time: reading each from its start anew would take a function
/// that sends it in small pieces far more of our time than of its own.
pub fn take_head(
    input: &mut BytesMut,
    looked: &mut usize,
    method: &Method,
) -> Result<Option<Head>, Malformed> {
    loop {
        if *looked > 0
            && !has_end(&input[looked.saturating_sub(END_BYTES)..])
            && input.len() <= HEAD_BYTES_MAX
        {
            *looked = input.len();
            return Ok(None);
        }
        // Left as it is: making a hundred of them empty takes longer than reading the few that come.
        let mut room = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let read = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, input, &mut room);
        let length = match read {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if input.len() > HEAD_BYTES_MAX => {
                return Err(Malformed::HeadTooLarge);
            }
            Ok(httparse::Status::Partial) => {
                *looked = input.len();
                return Ok(None);
            }
            Err(_) => return Err(Malformed::Head),
        };
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(Malformed::Head)?;
        let is_http11 = parsed.version == Some(1);
        // Where each header stands, so that values can share the bytes instead of being copied.
        let start = input.as_ptr() as usize;
        let place = |text: &[u8]| {
            let from = text.as_ptr() as usize - start;
            from..from + text.len()
        };
        let places: Vec<Place> = parsed
            .headers
            .iter()
            .map(|header| (place(header.name.as_bytes()), place(header.value)))
            .collect();
        let bytes = input.split_to(length).freeze();
        *looked = 0;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        let headers = collect(&bytes, places)?;
        let (framing, keeps) = framing(method, status, is_http11, &headers)?;
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = if is_http11 {
            Version::HTTP_11
        } else {
            Version::HTTP_10
        };
        *response.headers_mut() = headers;
        return Ok(Some(Head {
            response,
            framing,
            keeps,
        }));
    }
}

/// Bytes of the longer end of a head, less one.
const END_BYTES: usize = 2;

fn has_end(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .enumerate()
        .any(|(at, byte)| *byte == b'\n' && matches!(bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// Name and value of a header in the bytes of its head.
type Place = (Range<usize>, Range<usize>);

fn collect(bytes: &Bytes, places: Vec<Place>) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(places.len() + HEADERS_ADDED);
    for (name, value) in places {
        let name = HeaderName::from_bytes(&bytes[name]).map_err(|_| Malformed::Head)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice(value)).map_err(|_| Malformed::Head)?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// RFC 9112, 6.3, with every doubt an error.
fn framing(
    method: &Method,
    status: StatusCode,
    is_http11: bool,
    headers: &HeaderMap,
) -> Result<(Framing, bool), Malformed> {
    let keeps = is_http11 && !says(headers, &header::CONNECTION, "close");
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok((Framing::Upgraded, false));
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(length), None) => Some(decimal(length.as_bytes()).ok_or(Malformed::Framing)?),
        (Some(_), Some(_)) => return Err(Malformed::Framing),
    };
    let coding = headers.get(header::TRANSFER_ENCODING);
    if *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok((Framing::Length(0), keeps));
    }
    match (coding, length) {
        (Some(_), Some(_)) => Err(Malformed::Framing),
        (Some(coding), None) => {
            let only = headers.get_all(header::TRANSFER_ENCODING).iter().nth(1).is_none();
            match only && is_http11 && coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                true => Ok((Framing::Chunked(Chunk::Size), keeps)),
                false => Err(Malformed::Framing),
            }
        }
        (None, Some(length)) => Ok((Framing::Length(length), keeps)),
        (None, None) => Ok((Framing::Close, false)),
    }
}

fn says(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|said| said.trim().eq_ignore_ascii_case(word))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number
        .then(|| std::str::from_utf8(digits).ok()?.parse().ok())
        .flatten()
}

impl Framing {
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::Over))
    }

    /// Bytes of the body that are still to come, if the answer said so.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(Chunk::Over) => Some(0),
            Self::Chunked(_) | Self::Close | Self::Upgraded => None,
        }
    }

    /// Takes a piece of the body from the bytes that have come; none when more have to come, or it is over.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        match self {
            Self::Length(left) => Ok(take_up_to(left, input)),
            Self::Close if input.is_empty() => Ok(None),
            Self::Close => Ok(Some(input.split().freeze())),
            Self::Chunked(chunk) => chunk.take(input),
            Self::Upgraded => Ok(None),
        }
    }
}

fn take_up_to(left: &mut u64, input: &mut BytesMut) -> Option<Bytes> {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    if count == 0 {
        return None;
    }
    *left -= count as u64;
    Some(input.split_to(count).freeze())
}

impl Chunk {
    fn take(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        loop {
            match self {
                Self::Size => {
                    let Some(line) = take_line(input, CHUNK_LINE_MAX)? else {
                        return Ok(None);
                    };
                    *self = match chunk_size(&line)? {
                        0 => Self::Trailer(0),
                        size => Self::Data(size),
                    };
                }
                Self::Data(left) => {
                    let piece = take_up_to(left, input);
                    if *left == 0 {
                        *self = Self::End;
                    }
                    return Ok(piece);
                }
                Self::End => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        *self = Self::Size;
                    }
                    Some(_) => return Err(Malformed::Chunk),
                    None => return Ok(None),
                },
                // Nobody reads trailers here, so they end with the connection they came on.
                Self::Trailer(seen) => {
                    let Some(line) = take_line(input, TRAILER_BYTES_MAX.saturating_sub(*seen))? else {
                        return Ok(None);
                    };
                    *self = match line.is_empty() {
                        true => Self::Over,
                        false => Self::Trailer(*seen + line.len()),
                    };
                }
                Self::Over => return Ok(None),
            }
        }
    }
}

/// A line without its end.
fn take_line(input: &mut BytesMut, longest: usize) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
        return match input.len() > longest {
            true => Err(Malformed::Chunk),
            false => Ok(None),
        };
    };
    if end == 0 || end > longest || input[end - 1] != b'\r' {
        return Err(Malformed::Chunk);
    }
    let line = input.split_to(end - 1).freeze();
    input.advance(2);
    Ok(Some(line))
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii_end();
    // Sixteen digits are all that a u64 holds.
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed::Chunk);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Malformed::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| Malformed::Chunk)
}
