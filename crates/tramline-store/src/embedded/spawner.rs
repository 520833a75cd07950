//! Starts children from one thread that lasts as long as the process, and reaps them.
//!
//! The parent-death signal belongs to the spawning thread: started from a runtime's worker thread, which may end early,
//! a Postgres would be stopped in the middle of its work.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, ExitStatus, Output};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::watch;

use super::death_signal;

/// Requests are answered in some milliseconds; callers beyond this number wait in line.
const PENDING_SPAWNS_MAX: usize = 16;

struct Request {
    command: Command,
    dies_by: Signal,
    reply: SyncSender<io::Result<process::Child>>,
}

/// Starts the command in its own process group; it gets `dies_by` when this process dies. Blocks for the fork.
pub(super) fn spawn(command: Command, dies_by: Signal) -> io::Result<process::Child> {
    static SPAWNER: OnceLock<SyncSender<Request>> = OnceLock::new();
    let requests = SPAWNER.get_or_init(|| {
        let (sender, receiver) = sync_channel::<Request>(PENDING_SPAWNS_MAX);
        thread::Builder::new()
            .name("postgres-spawner".into())
            .spawn(move || {
                for Request {
                    mut command,
                    dies_by,
                    reply,
                } in receiver
                {
                    command.process_group(0);
                    death_signal::on_parent_death(&mut command, dies_by);
                    // nobody waits any more: the child is stopped at the end of the process at the latest
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started at the first use of postgres");
        sender
    });
    let (reply, answer) = sync_channel(1);
    requests
        .send(Request {
            command,
            dies_by,
            reply,
        })
        .map_err(|_| io::Error::other("the spawner thread has ended"))?;
    answer
        .recv()
        .map_err(|_| io::Error::other("the spawner thread has ended"))?
}

/// Runs a short helper program to its end and returns what it printed.
pub(super) fn output(mut command: Command) -> io::Result<Output> {
    command
        .stdin(process::Stdio::null())
        .stdout(process::Stdio::piped())
        .stderr(process::Stdio::piped());
    spawn(command, Signal::SIGTERM)?.wait_with_output()
}

/// A child that is reaped by a thread of its own; signals never reach a process id that was given to somebody else.
#[derive(Debug)]
pub(super) struct Supervised {
    pid: u32,
    /// True once the child is reaped, from when on its id may mean another process.
    reaped: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Supervised {
    pub(super) fn start(command: Command, dies_by: Signal) -> io::Result<Self> {
        let mut child = spawn(command, dies_by)?;
        let pid = child.id();
        let reaped = Arc::new(Mutex::new(false));
        let (ended, exit) = watch::channel(None);
        let mark = Arc::clone(&reaped);
        thread::Builder::new()
            .name("postgres-reaper".into())
            .spawn(move || {
                // wait without reaping first, so that marking and reaping happen under the lock that `signal` takes
                while waitid(Id::Pid(as_pid(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
                    == Err(nix::errno::Errno::EINTR)
                {}
                let mut mark = mark.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let status = child.wait();
                *mark = true;
                drop(mark);
                ended.send_replace(Some(status.unwrap_or_default()));
            })?;
        Ok(Self { pid, reaped, exit })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; does nothing when the child has ended.
    pub(super) fn signal(&self, signal: Signal) {
        let reaped = self
            .reaped
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*reaped {
            // the child exists (at least as a zombie) while the lock is held, so this cannot fail for want of it
            let _ = kill(as_pid(self.pid), signal);
        }
    }

    /// Like [`signal`](Self::signal), to the whole process group.
    pub(super) fn signal_group(&self, signal: Signal) {
        let reaped = self
            .reaped
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*reaped {
            let _ = kill(Pid::from_raw(-as_pid(self.pid).as_raw()), signal);
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits for the end. Cancel safe; may be called again.
    pub(super) async fn ended(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|status| *status);
        status.unwrap_or_default() // the reaper sends before it ends
    }
}

pub(super) fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}
