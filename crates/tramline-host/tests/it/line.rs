//! The host's end of a connection to a worker, by itself.

#[path = "../../src/worker/line.rs"]
mod subject;

use std::future::poll_fn;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt as _;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use subject::Line;

/// `EPOLLIN` and `EPOLLOUT`: the kernel shall tell when something comes, and when there is room.
const COMES: u32 = 1;
const ROOM: u32 = 4;

async fn connected() -> (Line, UnixStream) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let line = Line::connect(&socket).await.unwrap();
    (line, listener.accept().await.unwrap().0)
}

/// What this process has asked the kernel to tell of a socket; by its inode, since numbers of descriptors are used again.
fn asked_of(inode: u64) -> u32 {
    let mut asked = 0;
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
        // other tests close theirs meanwhile
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.lines().filter(|line| line.starts_with("tfd:")) {
            let after = |name: &str| {
                let word = line
                    .split(name)
                    .nth(1)
                    .unwrap()
                    .split_whitespace()
                    .next()
                    .unwrap();
                u64::from_str_radix(word, 16).unwrap()
            };
            if after("ino:") == inode {
                asked |= u32::try_from(after("events:")).unwrap();
            }
        }
    }
    asked
}

/// All sockets of this process.
fn sockets() -> impl Iterator<Item = u64> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    links.filter_map(|link| {
        let target = std::fs::read_link(link.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        inode.parse().ok()
    })
}

fn inode(socket: &impl AsRawFd) -> u64 {
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    std::fs::metadata(path).unwrap().ino()
}

/// With every message that the other end takes there is room again, of which nobody needs to be told.
#[tokio::test]
async fn nobody_is_woken_for_room_that_nobody_waits_for() {
    let (line, other) = connected().await;
    let asked: Vec<(u64, u32)> = sockets().map(|inode| (inode, asked_of(inode))).collect();
    let line = inode(&line.into_stream().unwrap());
    let of = |socket| asked.iter().find(|(inode, _)| *inode == socket).unwrap().1;
    assert_eq!(of(line) & (COMES | ROOM), COMES);
    // as it would be
    assert_eq!(of(inode(&other)) & (COMES | ROOM), COMES | ROOM);
}

#[tokio::test]
async fn what_does_not_fit_waits_for_room_and_comes_whole() {
    let (mut line, mut other) = connected().await;
    let sent: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
    let writing = async {
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let (one, two) = rest.split_at(rest.len() / 2);
            let slices = [IoSlice::new(one), IoSlice::new(two)];
            let count = poll_fn(|cx| line.poll_write(cx, &slices)).await.unwrap();
            rest = &rest[count..];
        }
        drop(line);
    };
    let mut received = Vec::new();
    let (_, read) = tokio::join!(writing, other.read_to_end(&mut received));
    read.unwrap();
    assert!(received == sent);
}

#[tokio::test]
async fn what_comes_is_read_in_pieces_to_the_end() {
    let (mut line, mut other) = connected().await;
    assert!(line.is_quiet());
    let sent: Vec<u8> = (0..300_000_u32).map(|at| (at % 253) as u8).collect();
    let writing = async {
        other.write_all(&sent).await.unwrap();
        drop(other);
    };
    let reading = async {
        let (mut input, mut received) = (BytesMut::new(), Vec::new());
        for wanted in [1, 3_000, 100_000].into_iter().cycle() {
            let count = poll_fn(|cx| line.poll_read(cx, &mut input, wanted))
                .await
                .unwrap();
            assert!(count <= wanted && count == input.len());
            if count == 0 {
                break;
            }
            received.extend_from_slice(&input.split());
        }
        assert!(!line.is_quiet(), "it was closed");
        received
    };
    let (received, ()) = tokio::join!(reading, writing);
    assert!(received == sent);
}
