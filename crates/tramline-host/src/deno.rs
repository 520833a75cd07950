//! Finding and installing the pinned Deno.
//!
//! One exact version, because bundles, flags and permissions were tested with it. Always the real ELF: the npm package
//! `deno` starts through a Node shim, which is slow, and whose death leaves the Deno below it running.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The version everything here was tested with.
pub const DENO_VERSION: &str = "2.9.6";
/// Names a Deno binary to use, whatever its version.
pub const DENO_ENV: &str = "TRAMLINE_DENO";

/// Why there is no Deno.
#[derive(Debug, thiserror::Error)]
pub enum DenoError {
    #[error("use {DENO_ENV}={}: {reason}", path.display())]
    Override { path: PathBuf, reason: String },
    #[error("find deno {DENO_VERSION}: it is neither on PATH nor in {}; install it, or let tramline install it by npm", cache_dir.display())]
    Missing { cache_dir: PathBuf },
    #[error(
        "install deno {DENO_VERSION}: the program `npm` is not on PATH; install Node.js with npm, or deno {DENO_VERSION} itself, or set {DENO_ENV}"
    )]
    NoNpm,
    #[error("install deno {DENO_VERSION}: no package for {arch}; set {DENO_ENV} to a deno binary")]
    UnknownArch { arch: &'static str },
    #[error("install {package} by npm: {output}")]
    Npm { package: String, output: String },
    #[error("install deno into {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// The user's cache folder: `$XDG_CACHE_HOME/tramline`, else `~/.cache/tramline`.
pub fn default_cache_dir() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("tramline"))
}

/// The Deno to use, without installing anything: `TRAMLINE_DENO`, the pinned version on `PATH`, the cache folder.
pub fn find_deno(cache_dir: &Path) -> Result<PathBuf, DenoError> {
    if let Some(path) = std::env::var_os(DENO_ENV)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
    {
        return match deno_version(&path) {
            Some(_) => Ok(path),
            None => Err(DenoError::Override {
                path,
                reason: "it does not answer `--version` as deno does; point it at a deno binary".into(),
            }),
        };
    }
    let cached = cached_binary(cache_dir);
    on_path("deno")
        .filter(|path| is_elf(path) && deno_version(path).as_deref() == Some(DENO_VERSION))
        .or_else(|| Some(cached).filter(|path| is_elf(path)))
        .ok_or_else(|| DenoError::Missing {
            cache_dir: cache_dir.to_owned(),
        })
}

/// As [`find_deno`], and installs the pinned version by `npm` into the cache folder when there is none.
///
/// Blocks for as long as npm takes (seconds). Safe to run in several processes at once.
pub fn install_deno(cache_dir: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, DenoError> {
    match find_deno(cache_dir) {
        Err(DenoError::Missing { .. }) => {}
        found => return found,
    }
    let package = match std::env::consts::ARCH {
        "x86_64" => "@deno/linux-x64-glibc",
        "aarch64" => "@deno/linux-arm64-glibc",
        arch => return Err(DenoError::UnknownArch { arch }),
    };
    let npm = on_path("npm").ok_or(DenoError::NoNpm)?;
    let target = cached_binary(cache_dir);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DenoError::Io { path, source }
    };
    // a folder of our own beside the target: a half-finished install is never seen, the rename is atomic
    let staging = cache_dir.join(format!("deno-{DENO_VERSION}.{}.tmp", std::process::id()));
    std::fs::create_dir_all(&staging).map_err(failed(&staging))?;
    let cleanup = RemoveOnDrop(staging.clone());
    progress(&format!(
        "installing deno {DENO_VERSION} ({package}, 96 MB, once)"
    ));
    let output = npm_install(&npm, &staging, &format!("{package}@{DENO_VERSION}"));
    let output = output.map_err(failed(&npm))?;
    let binary = staging.join("node_modules").join(package).join("deno");
    if !output.status.success() || !is_elf(&binary) {
        return Err(DenoError::Npm {
            package: format!("{package}@{DENO_VERSION}"),
            output: last_lines(&output),
        });
    }
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&binary, mode).map_err(failed(&binary))?;
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    std::fs::rename(&binary, &target).map_err(failed(&target))?;
    drop(cleanup);
    Ok(target)
}

fn npm_install(npm: &Path, folder: &Path, package: &str) -> std::io::Result<Output> {
    // install scripts are not needed: the package is the binary
    Command::new(npm)
        .args([
            "install",
            "--ignore-scripts",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--prefix",
        ])
        .arg(folder)
        .arg(package)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
}

fn last_lines(output: &Output) -> String {
    const LINES: usize = 8;
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = &lines[lines.len().saturating_sub(LINES)..];
    if tail.is_empty() {
        format!("npm ended with {}", output.status)
    } else {
        tail.join("\n")
    }
}

fn cached_binary(cache_dir: &Path) -> PathBuf {
    cache_dir.join(format!("deno-{DENO_VERSION}")).join("deno")
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| {
            std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

/// What `<path> --version` says, if it is a Deno.
pub fn deno_version(path: &Path) -> Option<String> {
    let output = Command::new(path)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.strip_prefix("deno ")?.split_whitespace().next()?;
    Some(version.to_owned())
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
