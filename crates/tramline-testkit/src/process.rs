//! A part of a test in a process of its own, which may be paused and killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::mpsc;

/// Longest wait for a line; reached only when it does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// An ignored test of this test binary, in a process of its own. The process tells the test what it has to say with
/// [`tell`](Self::tell), and should end when its standard input ends: then the test is gone. It is killed when this is dropped.
#[derive(Debug)]
pub struct TestProcess {
    child: Child,
    orders: ChildStdin,
    told: mpsc::UnboundedReceiver<String>,
}

/// Sets what a process tells its test apart from what the test harness prints.
const MARK: &str = "told: ";

impl TestProcess {
    /// Starts the test of this full name.
    pub fn start(test: &str, environment: &[(&str, &str)]) -> Self {
        let program = std::env::current_exe().expect("a test knows its own program");
        let mut child = Command::new(program)
            .args([test, "--exact", "--ignored", "--nocapture"])
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {test}: {error}"));
        let orders = child.stdin.take().expect("its input is piped");
        let output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let (teller, told) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, text)) = line.split_once(MARK) {
                    let _ = teller.send(text.to_owned());
                }
            }
        });
        Self { child, orders, told }
    }

    /// Called in the process: tells the test something.
    pub fn tell(text: &str) {
        println!("\n{MARK}{text}");
    }

    /// Called in the process: what the test orders, line by line; `None` when the test is gone.
    pub fn orders() -> mpsc::UnboundedReceiver<String> {
        let (sender, orders) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let lines = std::io::stdin().lines().map_while(Result::ok);
            lines
                .map(|line| sender.send(line))
                .take_while(Result::is_ok)
                .for_each(drop);
        });
        orders
    }

    /// Waits for the next thing that begins with this, and returns the rest of it.
    pub async fn told(&mut self, begin: &str) -> String {
        let told = async {
            while let Some(text) = self.told.recv().await {
                if let Some(rest) = text.strip_prefix(begin) {
                    return rest.trim().to_owned();
                }
            }
            panic!("the process ended without telling {begin:?}");
        };
        let told = tokio::time::timeout(PATIENCE, told).await;
        told.unwrap_or_else(|_| panic!("{begin:?} was not told in time"))
    }

    /// Orders something. A process that has ended hears nothing.
    pub fn order(&mut self, text: &str) {
        let _ = writeln!(self.orders, "{text}");
    }

    /// SIGSTOP: from here on it does nothing at all.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).unwrap_or_else(|error| panic!("failed to send {signal}: {error}"));
    }
}

impl Drop for TestProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills one server process (not the server): Postgres ends all sessions and recovers, as after a crash of its own.
pub fn kill_server_process(pid: i32) {
    // it may have ended by itself
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}
