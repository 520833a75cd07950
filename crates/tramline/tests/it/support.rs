//! Projects in temporary folders, the program, and a `dev` that never outlives its test.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for something that takes seconds on a busy machine; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Checks the exit code and goes on.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// The program, without what this machine's environment would change.
pub fn tramline(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tramline"));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TRAMLINE_")) {
        // where the binaries come from is decided by whoever runs the suite
        if !matches!(name.as_str(), "TRAMLINE_PG_BINARIES" | "TRAMLINE_DENO") {
            command.env_remove(name);
        }
    }
    command.env_remove("CRON_SECRET").env_remove("DATABASE_URL");
    command
}

/// Runs a command to its end.
pub fn say(dir: &Path, args: &[&str]) -> Said {
    finish(tramline(dir, args))
}

pub fn finish(mut command: Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A project folder.
pub struct Project {
    dir: TempDir,
}

impl Project {
    /// An empty one that holds `supabase/`.
    pub fn new() -> Self {
        // open to enter, because Postgres may run as another user
        let dir = tempfile::Builder::new()
            .prefix("tramline-it-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        fs::create_dir(dir.path().join("supabase")).unwrap();
        Self { dir }
    }

    /// A copy of `examples/<name>`, without what its own starts and scripts have left there.
    pub fn example(name: &str) -> Self {
        let project = Self::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../examples")
            .join(name);
        copy(&root, project.path());
        project
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file.
    pub fn file(self, path: &str, text: &str) -> Self {
        self.write(path, text);
        self
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes a function that answers with the value of this expression; `body` is the request's JSON.
    pub fn function(self, name: &str, expression: &str) -> Self {
        self.file(
            &format!("supabase/functions/{name}/index.ts"),
            &format!(
                "Deno.serve(async (request) => {{\n  const body = await request.json().catch(() => ({{}}));\n  return {expression};\n}});\n"
            ),
        )
    }

    pub fn say(&self, args: &[&str]) -> Said {
        say(self.path(), args)
    }

    /// Starts `dev` on free ports and waits until it is ready.
    pub fn dev(&self) -> Dev {
        Dev::start(self.path(), &[])
    }

    /// What the running `dev` has written about itself.
    pub fn dev_file(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path().join(".tramline/dev.json")).unwrap()).unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if name == ".tramline" || name == "node_modules" {
            continue;
        }
        let (from, to) = (entry.path(), to.join(&name));
        if from.is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// A running `dev` or `serve`.
pub struct Dev {
    child: Child,
    lines: Receiver<String>,
    /// Everything it has said so far.
    pub said: Vec<String>,
}

impl Dev {
    pub fn start(dir: &Path, args: &[&str]) -> Self {
        let mut dev = Self::spawn(dir, args);
        dev.wait_for("ready in ");
        dev
    }

    /// Starts without waiting.
    pub fn spawn(dir: &Path, args: &[&str]) -> Self {
        let mut command = tramline(dir, &["dev", "--port", "0", "--db-port", "0"]);
        command.args(args);
        Self::of(command)
    }

    /// Starts a command that runs until it is stopped.
    pub fn of(mut command: Command) -> Self {
        // a group of its own: signals to the suite are not for it
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let errors = sender.clone();
        std::thread::spawn(move || {
            BufReader::new(out)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        std::thread::spawn(move || {
            BufReader::new(err)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| errors.send(line))
        });
        Self {
            child,
            lines,
            said: Vec::new(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that holds this text; it may have been said already.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        match self.said.iter().find(|line| line.contains(text)) {
            Some(line) => line.clone(),
            None => self.wait_for_next(text),
        }
    }

    /// The same among the lines that nobody has waited for yet.
    #[track_caller]
    pub fn wait_for_next(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{text:?} was not said in time:\n{}", self.said.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without {text:?}:\n{}", self.said.join("\n"))
                }
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Waits for the end.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // lines have to be taken, or a full pipe would hold up the end
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => self.said.push(line),
                Err(_) => {
                    if let Some(status) = self.child.try_wait().unwrap() {
                        return status;
                    }
                }
            }
        }
        panic!("it did not end:\n{}", self.said.join("\n"));
    }

    /// Ctrl-C, then checks that it ended well and left no process behind.
    pub fn stop(mut self) {
        let family = descendants(self.pid());
        assert!(!family.is_empty(), "dev has children while it runs");
        self.signal(Signal::SIGINT);
        let status = self.ended();
        assert!(status.success(), "{status}:\n{}", self.said.join("\n"));
        assert_eq!(alive(&family), Vec::<(u32, String)>::new(), "processes are left");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // a failed test must not leave it running; its children die with it
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All descendants of a process, with the start time that tells a reused pid apart.
pub fn descendants(of: u32) -> Vec<(u32, String)> {
    let all: Vec<(u32, u32, String)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let (parent, start) = stat(pid)?;
            Some((pid, parent, start))
        })
        .collect();
    let mut family = vec![of];
    let mut found = Vec::new();
    while let Some(parent) = family.pop() {
        for (pid, _, start) in all.iter().filter(|(_, p, _)| *p == parent) {
            family.push(*pid);
            found.push((*pid, start.clone()));
        }
    }
    found
}

/// Those that still run.
pub fn alive(processes: &[(u32, String)]) -> Vec<(u32, String)> {
    processes
        .iter()
        .filter(|(pid, start)| stat(*pid).is_some_and(|(_, now)| now == *start))
        .cloned()
        .collect()
}

/// Parent and start time; nothing for processes that are gone or only wait to be reaped.
fn stat(pid: u32) -> Option<(u32, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text[text.rfind(')')? + 2..].split(' ').collect();
    if fields[0] == "Z" {
        return None;
    }
    Some((fields[1].parse().ok()?, fields[19].to_owned()))
}

/// Tries until it holds; what is waited for happens soon, but nobody says when.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A request to the gateway: status and body.
pub fn request(url: &str, bearer: Option<&str>, body: &str) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut request = reqwest::Client::new().post(url).body(body.to_owned());
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    })
}

/// A path as a text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
