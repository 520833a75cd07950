//! The host's end of a connection to a worker.
//!
//! With every message that a reader takes from a unix socket the kernel tells the other end that there is room again, and wakes
//! whoever waits for anything of that socket and has not said that it is not for this. With tokio's own type every request would
//! wake its sender once in vain, at the cost of the function's process. So only what comes is waited for; room is asked for when there was none.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A new buffer has at least so much room: for an answer's head, or a small answer as a whole.
const BUFFER_BYTES: usize = 8 << 10;
/// The most that is read at a time.
const READ_BYTES_MAX: usize = 64 << 10;
/// With less room left in the buffer a new one is made.
const ROOM_MIN: usize = 2 << 10;

#[derive(Debug)]
pub struct Line {
    stream: AsyncFd<UnixStream>,
    /// The same socket while it has no room.
    room: Option<AsyncFd<UnixStream>>,
}

impl Line {
    /// Opens one in the runtime of the caller.
    pub async fn connect(socket: &Path) -> io::Result<Line> {
        let stream = tokio::net::UnixStream::connect(socket).await?;
        Ok(Line {
            stream: watch(stream.into_std()?, Interest::READABLE)?,
            room: None,
        })
    }

    /// The socket, for something else.
    pub fn into_stream(self) -> io::Result<tokio::net::UnixStream> {
        tokio::net::UnixStream::from_std(self.stream.into_inner())
    }

    /// Whether the other side has neither closed it nor said anything.
    pub fn is_quiet(&self) -> bool {
        let read = self
            .stream
            .try_io(Interest::READABLE, |mut stream| stream.read(&mut [0]));
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads what has come, about `wanted` bytes at the most; 0 at the end.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.stream.poll_read_ready(cx))?;
            let filled = input.len();
            let room = make_room(input, wanted);
            // only now: what is read into has to be filled with something first
            input.resize(filled + room, 0);
            let read = ready.try_io(|stream| stream.get_ref().read(&mut input[filled..]));
            let count = match &read {
                Ok(Ok(count)) => *count,
                Ok(Err(_)) | Err(_) => 0,
            };
            input.truncate(filled + count);
            match read {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => {
                    // that was all of it: the next look would be in vain
                    if 0 < count && count < room {
                        ready.clear_ready();
                    }
                    return Poll::Ready(read);
                }
                Err(_would_block) => {}
            }
        }
    }

    /// Writes some of it.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let mut stream = self.stream.get_ref();
            let written = match slices {
                [only] => stream.write(only),
                several => stream.write_vectored(several),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => {
                    self.room = None;
                    return Poll::Ready(done);
                }
            }
            let room = match &self.room {
                Some(room) => room,
                None => self.room.insert(watch(stream.try_clone()?, Interest::WRITABLE)?),
            };
            // before the next try, which tells more than what was known before it
            ready!(room.poll_write_ready(cx))?.clear_ready();
        }
    }
}

/// Room for about so many bytes, without a new buffer for a few.
fn make_room(input: &mut BytesMut, wanted: usize) -> usize {
    let wanted = wanted.min(READ_BYTES_MAX);
    if input.capacity() - input.len() < ROOM_MIN {
        input.reserve(wanted.max(BUFFER_BYTES));
    }
    wanted.clamp(1, input.capacity() - input.len())
}

#[expect(
    deprecated,
    reason = "what follows it is unsafe; a stream keeps its own descriptor until it is dropped"
)]
fn watch(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(stream, interest)
}
