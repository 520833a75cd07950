//! `tramline doctor`: what this machine has, what it lacks, and what to do about it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tramline_host::{DENO_VERSION, find_deno};
use tramline_store::embedded::{MINIMUM_MAJOR, default_cache_dir};
use tramline_supabase::ProjectConfig;

use crate::cli::Global;
use crate::exit::{Done, Exit, Failure};
use crate::output;
use crate::place::{DevFile, find_project};

/// Where distributions install Postgres, `*` for the version.
const POSTGRES_FOLDERS: [&str; 3] = ["/usr/lib/postgresql", "/usr/pgsql-*", "/usr/libexec"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// Works without, with less.
    Note,
    /// `tramline dev` cannot start.
    Missing,
}

struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// What to do.
    advice: Option<String>,
}

impl Check {
    fn new(name: &'static str, state: State, found: impl Into<String>) -> Self {
        Self {
            name,
            state,
            found: found.into(),
            advice: None,
        }
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    fn word(&self) -> &'static str {
        match self.state {
            State::Ok => "ok",
            State::Note => "note",
            State::Missing => "missing",
        }
    }

    fn to_json(&self) -> Value {
        json!({ "check": self.name, "state": self.word(), "found": self.found, "advice": self.advice })
    }
}

pub async fn doctor(global: &Global) -> Done {
    let project = find_project(global.project.as_deref()).ok();
    let npm = npm();
    let has_npm = npm.state == State::Ok;
    let mut checks = vec![system(), npm, postgres(has_npm), deno(has_npm), user()];
    checks.extend([sandbox(project.as_deref()), cache()]);
    checks.extend(ports(project.as_deref()));
    checks.push(project_check(project.as_deref()));
    if global.json {
        output::json(&Value::Array(checks.iter().map(Check::to_json).collect()));
    } else {
        let rows = checks
            .iter()
            .map(|c| vec![c.word().to_owned(), c.name.to_owned(), c.found.clone()])
            .collect();
        output::table(&["", "check", "found"], rows, "");
        for check in &checks {
            if let Some(advice) = &check.advice {
                output::line(&format!("\n{}: {advice}", check.name));
            }
        }
    }
    let missing: Vec<&str> = checks
        .iter()
        .filter(|c| c.state == State::Missing)
        .map(|c| c.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failure,
        format!("`tramline dev` cannot start here: {}", missing.join(", ")),
    ))
}

fn system() -> Check {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let check = Check::new("system", State::Ok, format!("{os} {} {arch}", release.trim()));
    if os == "linux" && matches!(arch, "x86_64" | "aarch64") {
        return check;
    }
    Check {
        state: State::Missing,
        ..check
    }
    .advice("tramline runs on Linux, x86_64 or aarch64.")
}

fn npm() -> Check {
    match version_of(Path::new("npm")) {
        Some(version) => Check::new("npm", State::Ok, version),
        None => Check::new("npm", State::Note, "not found")
            .advice("Deno and, where the system has none, Postgres are fetched by npm; install it (Debian: `apt install npm`), or install those two yourself."),
    }
}

fn postgres(has_npm: bool) -> Check {
    const NAME: &str = "Postgres";
    let found = postgres_programs().into_iter().filter_map(|program| {
        let version = version_of(&program)?;
        let number = version
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?
            .to_owned();
        let major: u32 = number.split('.').next()?.parse().ok()?;
        Some((major, number, program))
    });
    match found
        .filter(|(major, ..)| *major >= MINIMUM_MAJOR)
        .max_by_key(|(major, ..)| *major)
    {
        Some((_, number, program)) => {
            Check::new(NAME, State::Ok, format!("{number} ({})", program.display()))
        }
        None if has_npm => Check::new(
            NAME,
            State::Ok,
            "none installed; fetched by npm at the first start",
        ),
        None => Check::new(
            NAME,
            State::Missing,
            format!("no PostgreSQL {MINIMUM_MAJOR} or newer, and no npm to fetch it"),
        )
        .advice("Install it (Debian: `apt install postgresql`) or install npm."),
    }
}

fn postgres_programs() -> Vec<PathBuf> {
    let mut programs: Vec<PathBuf> = on_path("postgres").into_iter().collect();
    let bindir = Command::new("pg_config")
        .arg("--bindir")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    if let Ok(output) = bindir {
        programs.push(Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("postgres"));
    }
    for folder in POSTGRES_FOLDERS {
        let parent = Path::new(folder.trim_end_matches("/pgsql-*"));
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            programs.push(entry.path().join("bin/postgres"));
            programs.push(entry.path().join("postgres"));
        }
    }
    programs.retain(|program| program.is_file());
    programs
}

fn deno(has_npm: bool) -> Check {
    let cache = crate::deno::cache_dir();
    match find_deno(&cache) {
        Ok(path) => Check::new("Deno", State::Ok, format!("{DENO_VERSION} ({})", path.display())),
        Err(_) if has_npm => Check::new(
            "Deno",
            State::Ok,
            format!("not installed; {DENO_VERSION} is fetched by npm at the first start"),
        ),
        Err(error) => Check::new("Deno", State::Missing, format!("{DENO_VERSION} not found"))
            .advice(format!("Failed to {error}.")),
    }
}

fn user() -> Check {
    let user = nix::unistd::geteuid();
    if !user.is_root() {
        return Check::new("user", State::Ok, format!("uid {user}"));
    }
    let account = ["postgres", "nobody"]
        .into_iter()
        .find(|name| nix::unistd::User::from_name(name).is_ok_and(|user| user.is_some()));
    match account {
        Some(name) => Check::new("user", State::Ok, format!("root; Postgres runs as {name}")),
        None => Check::new(
            "user",
            State::Missing,
            "root, and there is no user postgres or nobody",
        )
        .advice("Postgres refuses to run as root: start tramline as an ordinary user."),
    }
}

/// What fences functions in here. A layer that tramline.toml requires and that is missing keeps every node from starting.
fn sandbox(project: Option<&Path>) -> Check {
    let folder = project.map_or_else(|| PathBuf::from("."), Path::to_owned);
    let folder = folder.canonicalize().unwrap_or(folder);
    let env = std::env::vars().collect();
    let config = crate::config::Config::load(&folder, &env).map(|config| config.sandbox);
    let config = config.unwrap_or_default();
    let all = tramline_host::layers(&config, &folder.join(crate::place::STATE_DIR));
    let (active, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|status| status.active);
    let names: Vec<&str> = active.iter().map(|status| status.layer.name()).collect();
    let state = match missing
        .iter()
        .any(|status| config.require.contains(&status.layer))
    {
        true => State::Missing,
        false if missing.is_empty() => State::Ok,
        false => State::Note,
    };
    let check = Check::new("sandbox", state, names.join(", "));
    if missing.is_empty() {
        return check;
    }
    let told: Vec<String> = missing
        .iter()
        .map(|status| format!("{}: {}", status.layer.name(), status.detail))
        .collect();
    check.advice(format!("not active here: {}", told.join("; ")))
}

fn cache() -> Check {
    let cache = default_cache_dir();
    let usable = std::fs::create_dir_all(&cache).and_then(|()| {
        let probe = cache.join(format!("probe-{}", std::process::id()));
        std::fs::write(&probe, b"")?;
        std::fs::remove_file(probe)
    });
    match usable {
        Ok(()) => Check::new("cache", State::Ok, cache.display().to_string()),
        Err(error) => Check::new("cache", State::Missing, format!("{}: {error}", cache.display()))
            .advice("Set XDG_CACHE_HOME to a folder that you may write to."),
    }
}

fn ports(project: Option<&Path>) -> Vec<Check> {
    let config = project.and_then(|dir| {
        let env = tramline_supabase::config::ConfigEnv::load(dir, &std::env::vars().collect()).ok()?;
        ProjectConfig::load(&dir.join("supabase/config.toml"), &env).ok()
    });
    let config = config.map(|(config, _)| config).unwrap_or_default();
    let ours = project.and_then(DevFile::read).and_then(|file| file.node);
    let check = |name: &'static str, port: u16, flag: &str| {
        let is_ours = ours.as_ref().is_some_and(|node| {
            let end = format!(":{port}");
            node.url.ends_with(&end) || node.db_url.contains(&format!("{end}/"))
        });
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => Check::new(name, State::Ok, format!("{port} is free")),
            Err(_) if is_ours => Check::new(
                name,
                State::Ok,
                format!("{port} is used by the running `tramline dev`"),
            ),
            Err(error) => Check::new(name, State::Note, format!("{port}: {error}")).advice(format!(
                "Stop the program on port {port}, or start with {flag} and another port."
            )),
        }
    };
    vec![
        check("gateway port", config.api.port, "--port"),
        check("Postgres port", config.db.port, "--db-port"),
    ]
}

fn project_check(project: Option<&Path>) -> Check {
    match project {
        Some(dir) => Check::new("project", State::Ok, dir.display().to_string()),
        None => Check::new("project", State::Note, "none in this folder or above")
            .advice("Change into a folder that holds supabase/, or name it with --project."),
    }
}

/// The first line of `<program> --version`.
fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned()).filter(|line| output.status.success() && !line.is_empty())
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
