//! Deno's cache of compiled code: one database for all workers, in which Deno itself never forgets a file. Every version of
//! every function would stay there, up to half a megabyte each.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::launch::{DENO_RUN, OPEN_FILES, WorkerConfig, write_once};
use crate::process::{ChildSpec, ExitReason, Process, Rlimits};
use crate::sandbox::{Files, Jail, Tcp};

/// The program that forgets what is gone.
const FORGET: &str = include_str!("forget.ts");
const DATABASE: &str = "v8_code_cache_v2";
/// Below, nobody minds what is in it: a project of a hundred functions is.
const WORTH_BYTES: u64 = 8 << 20;
/// It looks at some thousand files; whoever holds the database holds it for milliseconds.
const TIME_MAX: Duration = Duration::from_secs(60);
const MEMORY_BYTES: u64 = 1 << 30;
const FILE_BYTES: u64 = 1 << 30;
/// Of what it says when it fails.
const WORDS_MAX: u64 = 4 << 10;

/// Writes the program where Deno finds it.
pub fn write_forget(state_dir: &Path) -> std::io::Result<std::path::PathBuf> {
    write_once(state_dir.join("forget.ts"), FORGET)
}

/// Forgets what was compiled of bundles that are gone, when there is much. It is done as workers do it: by Deno, in their sandbox
/// and as their user, whose files these are.
pub async fn forget_gone(config: &WorkerConfig) -> std::io::Result<()> {
    let size = std::fs::metadata(config.cache.join(DATABASE)).map_or(0, |meta| meta.len());
    if size < WORTH_BYTES {
        return Ok(());
    }
    let slot = config.run_dir.slot()?;
    config.sandbox.hand_over(slot.path())?;
    let (process, mut output) = Process::spawn(spec(config, slot.path())?, &config.children).await?;
    let mut words = String::new();
    let ended = async {
        let mut said = (&mut output.stderr).take(WORDS_MAX);
        // what is no text is not shown
        let _ = said.read_to_string(&mut words).await;
        process.wait().await
    };
    match tokio::time::timeout(TIME_MAX, ended).await {
        Ok(ExitReason::Code(0)) => Ok(()),
        Ok(reason) => Err(std::io::Error::other(format!("it ended with {reason}: {words}"))),
        Err(_) => {
            process.kill();
            Err(std::io::Error::other("it took too long"))
        }
    }
}

fn spec(config: &WorkerConfig, folder: &Path) -> std::io::Result<ChildSpec> {
    let path = |flag: &str, path: &Path| {
        let mut argument = OsString::from(flag);
        // a comma within a path is doubled
        argument.push(path.display().to_string().replace(',', ",,"));
        argument
    };
    let mut args: Vec<OsString> = DENO_RUN.map(OsString::from).to_vec();
    args.push("--no-code-cache".into());
    args.push(path("--allow-read=", &config.bundles));
    args.push(path("--allow-read=", &config.cache));
    args.push(path("--allow-write=", &config.cache));
    args.extend([&config.forget, &config.cache, &config.bundles].map(|path| path.clone().into()));
    let files = Files {
        read: vec![config.forget.clone()],
        known_names: vec![config.bundles.clone()],
        execute: vec![config.deno.clone()],
        write: vec![folder.to_owned(), config.cache.clone()],
    };
    Ok(ChildSpec {
        program: config.program(),
        args,
        env: config.environment(folder),
        cwd: folder.to_owned(),
        limits: Rlimits {
            data_bytes: Some(MEMORY_BYTES),
            open_files: OPEN_FILES,
            file_bytes: FILE_BYTES,
            user_threads: u64::MAX,
        },
        jail: Jail {
            account: config.sandbox.account(),
            without_network: true,
            ..config.sandbox.jail(&files, &Tcp::Ports(Vec::new()), None, None)?
        },
    })
}
