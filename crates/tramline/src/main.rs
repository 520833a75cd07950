//! `tramline`: the command line, the settings and the wiring of everything else.

mod cli;
mod client;
mod commands;
mod config;
mod deno;
mod dev;
mod exit;
mod node;
mod output;
mod place;
mod progress;
mod scaffold;
mod secret;
mod serve;
mod signals;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _};
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};
use exit::{Done, Exit, Failure, exit_code_table};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged, in the syntax of `RUST_LOG`, such as `info` or `tramline_engine=debug`.
const LOG_ENV: &str = "TRAMLINE_LOG";
/// `json` for log collectors.
const LOG_FORMAT_ENV: &str = "TRAMLINE_LOG_FORMAT";
/// Threads for blocking work: reading the sources of functions, looking up hosts, starting a database. Each keeps memory of its
/// own while it waits for more; what is beyond waits for one.
const BLOCKING_THREADS: usize = 16;
/// Blocking work that is left after the command (a download that nobody waits for) may not hold up the end.
const RUNTIME_STOP: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let cli = parse();
    let json = cli.global.json;
    start_logs(&cli.command);
    match run(cli) {
        Ok(()) => ExitCode::from(Exit::Ok.code()),
        Err(failure) => {
            if json {
                output::note(&failure.to_json().to_string());
            } else {
                output::note(&failure.to_text());
            }
            ExitCode::from(failure.exit.code())
        }
    }
}

/// Reads the arguments; wrong ones end the program with exit code 2 and help.
fn parse() -> Cli {
    let command = Cli::command().mut_subcommand("exit-codes", |command| {
        command.long_about(format!("What the exit codes mean\n\n{}", exit_code_table()))
    });
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn start_logs(command: &Command) {
    let default = match command {
        Command::Serve(_) => "info,postrust=warn,sqlx=warn",
        Command::Dev(_) => "warn,postrust=error,sqlx=error,deadpool=error",
        _ => "error",
    };
    let filter = std::env::var(LOG_ENV).ok().filter(|filter| !filter.is_empty());
    let filter = EnvFilter::try_new(filter.as_deref().unwrap_or(default)).unwrap_or_else(|error| {
        output::note(&format!(
            "{LOG_ENV} is not understood ({error}); logging {default}"
        ));
        EnvFilter::new(default)
    });
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::env::var(LOG_FORMAT_ENV).is_ok_and(|format| format == "json") {
        logs.json().init();
    } else {
        logs.init();
    }
}

fn run(cli: Cli) -> Done {
    if let Command::ExitCodes = cli.command {
        print_exit_codes(cli.global.json);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("failed to start threads: {error}")))?;
    let done = runtime.block_on(dispatch(cli));
    runtime.shutdown_timeout(RUNTIME_STOP);
    done
}

async fn dispatch(cli: Cli) -> Done {
    let global = &cli.global;
    match cli.command {
        Command::Init { path } => scaffold::init(global, path.as_deref()),
        Command::Dev(args) => dev::dev(global, args).await,
        Command::Serve(args) => serve::serve(global, args).await,
        Command::Status => commands::status::status(global).await,
        Command::Deploy(args) => commands::deploy::deploy(global, args).await,
        Command::Token(command) => commands::token::token(global, command).await,
        Command::Sign(args) => commands::sign::sign(global, args).await,
        Command::Retention { dry_run } => commands::retention::retention(global, dry_run).await,
        Command::Doctor => commands::doctor::doctor(global).await,
        Command::Run(command) => commands::run::run(global, command).await,
        Command::DeadLetter(command) => commands::dead_letter::dead_letter(global, command).await,
        Command::Why(args) => commands::why::why(global, args).await,
        Command::Workflow(command) => commands::workflow::workflow(global, command).await,
        Command::Queue(command) => commands::queue::queue(global, command).await,
        Command::Schedule(command) => commands::schedule::schedule(global, command).await,
        Command::Function(command) => commands::function::function(global, command).await,
        Command::ExitCodes => Ok(()),
    }
}

fn print_exit_codes(json: bool) {
    if json {
        let codes: Vec<_> = Exit::ALL
            .iter()
            .map(|exit| serde_json::json!({ "code": exit.code(), "name": exit.name(), "meaning": exit.meaning() }))
            .collect();
        output::json(&serde_json::Value::Array(codes));
    } else {
        output::line(exit_code_table().trim_end());
    }
}
