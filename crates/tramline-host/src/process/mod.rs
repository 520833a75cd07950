//! Child processes that cannot outlive us: own session, killed by group, reaped, dead when we die.
//!
//! The tricky part is that a pid may be used again once its process was reaped. So one task per child owns it: it learns
//! of the end through a pidfd while the child is still a zombie, kills what is left of the group, and only then reaps.
//! Signals are sent by that task alone.

mod spawner;
mod sys;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

pub use sys::{Rlimits, unshare};

use crate::sandbox::Jail;

/// What to run. The environment is exactly `env`; standard input is `/dev/null`.
#[derive(Debug)]
pub struct ChildSpec {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(String, OsString)>,
    pub cwd: PathBuf,
    pub limits: Rlimits,
    pub jail: Jail,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// It ended by itself with this code.
    Code(i32),
    /// A signal ended it that we did not send.
    Signal(i32),
    /// We ended it.
    Killed,
    /// Its status could not be read.
    Unknown,
}

/// V8 ends the process with a trap when its heap is full.
const SIGTRAP: i32 = 5;
const SIGABRT: i32 = 6;

impl ExitReason {
    /// True for the ways V8 and the allocator end a process that ran out of memory.
    pub fn looks_like_out_of_memory(self) -> bool {
        matches!(
            self,
            ExitReason::Signal(SIGTRAP | SIGABRT) | ExitReason::Code(133 | 134)
        )
    }
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExitReason::Code(code) => write!(f, "exit code {code}"),
            ExitReason::Signal(signal) => write!(f, "signal {signal}"),
            ExitReason::Killed => write!(f, "killed by the supervisor"),
            ExitReason::Unknown => write!(f, "an unknown end"),
        }
    }
}

#[derive(Debug)]
enum Order {
    Terminate { grace: Duration },
    Kill,
}

/// A running child. Dropping it kills the whole group.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    orders: mpsc::UnboundedSender<Order>,
    exit: watch::Receiver<Option<ExitReason>>,
}

/// The child's output, non-blocking. Somebody must read both to the end, or the child stops at a full pipe.
#[derive(Debug)]
pub struct Output {
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
}

impl Process {
    /// Starts a child and, on `owners`, the task that owns it: when all of those have ended, no child is left.
    pub async fn spawn(spec: ChildSpec, owners: &TaskTracker) -> std::io::Result<(Process, Output)> {
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.args)
            .env_clear()
            .envs(spec.env)
            .current_dir(&spec.cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        sys::confine(&mut command, rustix::process::getpid(), spec.limits, spec.jail);
        let child = Owned(spawner::spawn(command).await?);
        child.supervise(owners)
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks the group to end, and kills it after `grace`. Returns at once; see [`Process::wait`].
    pub fn terminate(&self, grace: Duration) {
        let _ = self.orders.send(Order::Terminate { grace });
    }

    /// Kills the group. Returns at once; see [`Process::wait`].
    pub fn kill(&self) {
        let _ = self.orders.send(Order::Kill);
    }

    /// The end, when it has come.
    pub fn exit(&self) -> Option<ExitReason> {
        *self.exit.borrow()
    }

    /// Waits until the process is gone and reaped.
    pub async fn wait(&self) -> ExitReason {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(reason) => reason.unwrap_or(ExitReason::Unknown),
            Err(_) => ExitReason::Unknown,
        }
    }
}

/// A child that is killed by group and reaped when dropped, whatever happens to the task that holds it.
struct Owned(Child);

impl Owned {
    fn supervise(mut self, owners: &TaskTracker) -> std::io::Result<(Process, Output)> {
        let pid = self.0.id();
        let missing = || std::io::Error::other("the child has no output pipe");
        let stdout = OwnedFd::from(self.0.stdout.take().ok_or_else(missing)?);
        let stderr = OwnedFd::from(self.0.stderr.take().ok_or_else(missing)?);
        let output = Output {
            stdout: pipe::Receiver::from_owned_fd(stdout)?,
            stderr: pipe::Receiver::from_owned_fd(stderr)?,
        };
        let pidfd = sys::awaitable(pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?)?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let (told, exit) = watch::channel(None);
        owners.spawn(async move {
            let reason = self.until_end(&pidfd, inbox).await;
            told.send_replace(Some(reason));
        });
        Ok((Process { pid, orders, exit }, output))
    }

    /// Waits for the end, obeying orders meanwhile; a dropped handle is an order to kill.
    async fn until_end(
        &mut self,
        pidfd: &AsyncFd<OwnedFd>,
        mut inbox: mpsc::UnboundedReceiver<Order>,
    ) -> ExitReason {
        let mut deadline: Option<tokio::time::Instant> = None;
        let mut ours = false;
        let mut handle_dropped = false;
        loop {
            let grace_over = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = pidfd.readable() => break,
                order = inbox.recv(), if !handle_dropped => match order {
                    Some(Order::Terminate { grace }) => {
                        ours = true;
                        self.signal(Signal::TERM);
                        deadline.get_or_insert_with(|| tokio::time::Instant::now() + grace);
                    }
                    Some(Order::Kill) => {
                        ours = true;
                        self.signal(Signal::KILL);
                    }
                    None => {
                        handle_dropped = true;
                        ours = true;
                        self.signal(Signal::KILL);
                    }
                },
                () = grace_over => {
                    deadline = None;
                    self.signal(Signal::KILL);
                }
            }
        }
        // the leader is a zombie: its pid, and so the group's, is still ours
        self.signal(Signal::KILL);
        match self.0.wait() {
            Ok(_) if ours => ExitReason::Killed,
            Ok(status) => reason_of(status),
            Err(error) => {
                tracing::warn!(pid = self.0.id(), %error, "cannot reap a child");
                ExitReason::Unknown
            }
        }
    }

    fn signal(&self, signal: Signal) {
        // ESRCH: the group is already gone, which is what we want
        let _ = kill_process_group(Pid::from_child(&self.0), signal);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.signal(Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

fn reason_of(status: ExitStatus) -> ExitReason {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitReason::Code(code),
        (None, Some(signal)) => ExitReason::Signal(signal),
        (None, None) => ExitReason::Unknown,
    }
}
