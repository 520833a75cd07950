//! One lasting thread that forks every child.
//!
//! The kernel sends a child its parent-death signal when the *thread* that forked it ends, not the process. Runtime
//! threads come and go (blocking pools shrink), so forking on them would kill workers at random.

use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use tokio::sync::oneshot;

type Job = (Command, oneshot::Sender<std::io::Result<Child>>);

static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();

/// Forks `command` on the lasting thread.
pub async fn spawn(command: Command) -> std::io::Result<Child> {
    let (reply, answer) = oneshot::channel();
    let sender = SPAWNER.get_or_init(start);
    if sender.send((command, reply)).is_err() {
        return Err(std::io::Error::other("the spawner thread is gone"));
    }
    answer
        .await
        .map_err(|_| std::io::Error::other("the spawner thread dropped the request"))?
}

fn start() -> Sender<Job> {
    let (sender, receiver) = channel::<Job>();
    let thread = std::thread::Builder::new()
        .name("tramline-spawner".into())
        .spawn(move || {
            for (mut command, reply) in receiver {
                if let Err(Ok(mut unwanted)) = reply.send(command.spawn()) {
                    // the caller went away while we forked: nobody else knows this child
                    let _ = unwanted.kill();
                    let _ = unwanted.wait();
                }
            }
        });
    if let Err(error) = thread {
        // the receiver is gone with the closure, so every `spawn` answers with an error
        tracing::error!(%error, "cannot start the spawner thread");
    }
    sender
}
