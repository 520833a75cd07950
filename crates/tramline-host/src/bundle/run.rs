//! Running `deno bundle` on a copy of the function's files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::importmap::SHIM_FOLDER;
use super::manifest::{self, Dependency};
use super::plan::{Origin, Plan, is_source};
use super::rework::rework;
use super::shims::SHIMS;
use super::{BundleError, Bundler, blocking, npmrc, scan};
use crate::process::{ChildSpec, ExitReason, Process, Rlimits};
use crate::sandbox::{Files, Jail, Tcp};

const CONFIG: &str = "tramline.deno.json";
/// Where Deno writes down which packages it has taken.
const LOCK: &str = "tramline.deno.lock";
/// What is kept of the bundler's words.
const OUTPUT_MAX_BYTES: usize = 16 << 10;
const OPEN_FILES: u64 = 4_096;
/// Private memory of the bundler: what V8 reserves, and room for the largest sources several times over.
const DATA_BYTES: u64 = 4 << 30;
/// Bytes of one file that the bundler may write: packages with their binaries are below it.
const FILE_BYTES: u64 = 1 << 30;
/// Settings that name files with certificates.
const CERTIFICATES: &[&str] = &[
    "DENO_CERT",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];
/// Settings of the machine that reach the bundler when they are set: where packages come from, through which proxy,
/// and which certificates count. None of them belongs to the project's secrets.
const PASSED_ON: &[&str] = &[
    "DENO_CERT",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "JSR_URL",
    "NO_PROXY",
    "NPM_CONFIG_REGISTRY",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "npm_config_registry",
];

/// Writes the copy.
pub fn stage(plan: &Plan, stage: &Path) -> Result<(), BundleError> {
    for (path, bytes) in &plan.files {
        match std::str::from_utf8(bytes).ok().filter(|_| is_source(path)) {
            Some(text) => write(&stage.join(path), scan::with_attributes(text).as_bytes())?,
            None => write(&stage.join(path), bytes)?,
        }
    }
    for (name, text) in SHIMS {
        write(&stage.join(SHIM_FOLDER).join(name), text.as_bytes())?;
    }
    write(&stage.join(CONFIG), plan.config.as_bytes())?;
    if let Some(npmrc) = &plan.npmrc {
        write(&stage.join(npmrc::NAME), npmrc.as_bytes())?;
    }
    write(&stage.join("home").join(".npmrc"), registries().as_bytes())
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    let failed = |source| BundleError::Write {
        path: path.to_owned(),
        source,
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, bytes).map_err(failed)
}

/// The registry lines of the user's `.npmrc`; tokens stay where they are.
fn registries() -> String {
    let Some(home) = std::env::var_os("HOME") else {
        return String::new();
    };
    let text = std::fs::read_to_string(Path::new(&home).join(".npmrc")).unwrap_or_default();
    let is_registry = |line: &&str| {
        let key = line.split('=').next().unwrap_or("").trim();
        key == "registry" || (key.starts_with('@') && key.ends_with(":registry"))
    };
    text.lines()
        .filter(is_registry)
        .map(|line| format!("{line}\n"))
        .collect()
}

/// What came out.
#[derive(Debug)]
pub struct Made {
    pub file: PathBuf,
    pub dependencies: Vec<Dependency>,
}

/// Makes the bundle. `depth` is how many folders below the project it will lie.
///
/// The source map names its sources relative to the bundle. So the bundle is made just as deep in the copy as it will
/// lie in the project: then the names lead to the user's own files, wherever the project is.
pub async fn run(
    bundler: &Bundler,
    plan: &Plan,
    stage: &Path,
    depth: Option<usize>,
) -> Result<Made, BundleError> {
    let mut out: PathBuf = stage.to_owned();
    out.extend(std::iter::repeat_n("out", depth.unwrap_or(1)));
    out.push("bundle.js");
    let args = [
        "bundle", "--quiet", "--lock", LOCK, "--config", CONFIG, "--output",
    ];
    let mut args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
    if depth.is_some() {
        // read by Deno only when an error's stack is shown, so it costs a start nothing
        args.insert(1, "--sourcemap=linked".into());
    }
    args.push(out.clone().into());
    args.push(plan.entry.clone().into());
    let failed = |source| BundleError::Spawn {
        deno: bundler.deno.clone(),
        source,
    };
    let spec = ChildSpec {
        program: bundler.deno.clone(),
        args,
        env: environment(bundler, stage),
        cwd: stage.to_owned(),
        limits: Rlimits {
            data_bytes: Some(DATA_BYTES),
            open_files: OPEN_FILES,
            file_bytes: FILE_BYTES,
            user_threads: u64::MAX,
        },
        jail: jail(bundler, stage).map_err(failed)?,
    };
    let (process, output) = Process::spawn(spec, &bundler.children).await.map_err(failed)?;
    let (exit, stdout, stderr) = tokio::select! {
        ended = async { tokio::join!(process.wait(), drain(output.stdout), drain(output.stderr)) } => ended,
        () = tokio::time::sleep(bundler.timeout) => {
            process.kill();
            process.wait().await;
            return Err(BundleError::Timeout(bundler.timeout));
        }
    };
    if exit == ExitReason::Code(0) && out.is_file() {
        let path = out.clone();
        blocking(move || rework(&path)).await?;
        return Ok(Made {
            file: out,
            dependencies: manifest::of_lock(&stage.join(LOCK)),
        });
    }
    let words = readable(&format!("{stdout}{stderr}"), stage, &bundler.project);
    let words = if words.is_empty() {
        format!("the bundler ended with {exit}")
    } else {
        words
    };
    Err(not_fetched(plan, &words).unwrap_or(BundleError::Deno { output: words }))
}

/// The import that could not be got, if that is what the words say.
fn not_fetched(plan: &Plan, words: &str) -> Option<BundleError> {
    let output = words.to_owned();
    let constraint = words
        .split_once("Could not find constraint '")
        .and_then(|(_, rest)| rest.split_once('\''));
    if let Some((package, _)) = constraint {
        let npm = format!("npm:{package}");
        let (_, origin) = plan.remote.iter().find(|(value, _)| is_package(value, &npm))?;
        let Origin { specifier, file } = origin.clone();
        return Some(BundleError::Package {
            specifier,
            package: package.to_owned(),
            file,
            output,
        });
    }
    // Deno names the module it could not get, sometimes only by its host
    let fetched = |value: &str| !value.starts_with("npm:");
    let (_, origin) = plan
        .remote
        .iter()
        .find(|(value, _)| fetched(value) && (words.contains(value.as_str()) || names_host(words, value)))?;
    let Origin { specifier, file } = origin.clone();
    Some(BundleError::Fetch {
        specifier,
        file,
        output,
    })
}

/// Whether an import is of this package (`npm:name@range`), whatever it takes out of it.
fn is_package(import: &str, package: &str) -> bool {
    let rest = import.strip_prefix(package);
    let rest = rest.or_else(|| import.strip_prefix(package.strip_suffix("@*")?));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The bundler reads whatever a static import names, as text if it is told so: it sees the copy and its own cache only.
fn jail(bundler: &Bundler, stage: &Path) -> std::io::Result<Jail> {
    let cache = bundler.state_dir.join("deno");
    let certificates = CERTIFICATES.iter().filter_map(std::env::var_os);
    let files = Files {
        read: certificates
            .map(PathBuf::from)
            .filter(|path| path.exists())
            .collect(),
        // Deno starts esbuild from its cache
        execute: vec![bundler.deno.clone(), cache.clone()],
        write: vec![stage.to_owned(), cache],
        ..Files::default()
    };
    bundler.sandbox.jail(&files, &Tcp::Connect, None, None)
}

fn names_host(words: &str, specifier: &str) -> bool {
    let package = specifier
        .strip_prefix("jsr:")
        .map(|package| package.trim_start_matches('/'));
    let name = package.map(|package| match package.rfind('@') {
        Some(at) if at > 0 => &package[..at],
        _ => package,
    });
    name.is_some_and(|name| words.contains(name))
}

fn environment(bundler: &Bundler, stage: &Path) -> Vec<(String, OsString)> {
    let mut env: Vec<(String, OsString)> = vec![
        ("DENO_DIR".into(), bundler.state_dir.join("deno").into()),
        ("HOME".into(), stage.join("home").into()),
        ("NO_COLOR".into(), "1".into()),
        ("DENO_NO_UPDATE_CHECK".into(), "1".into()),
        // the project's own package.json is for its other programs
        ("DENO_NO_PACKAGE_JSON".into(), "1".into()),
        // certificates of the machine's own authorities count, as they do for npm and curl
        ("DENO_TLS_CA_STORE".into(), "mozilla,system".into()),
    ];
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            env.push(((*name).to_owned(), value));
        }
    }
    if let (None, Some(extra)) = (
        std::env::var_os("DENO_CERT"),
        std::env::var_os("NODE_EXTRA_CA_CERTS"),
    ) {
        env.push(("DENO_CERT".into(), extra));
    }
    env
}

async fn drain(mut pipe: Receiver) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        let room = OUTPUT_MAX_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Deno's words with the user's own paths.
fn readable(words: &str, stage: &Path, project: &Path) -> String {
    let (stage, project) = (stage.display().to_string(), project.display().to_string());
    let words = words
        .replace(&format!("file://{stage}"), &project)
        .replace(&stage, &project);
    // what follows is about Deno itself
    let words = words.split("\nStack backtrace:").next().unwrap_or_default();
    words.trim().to_owned()
}
