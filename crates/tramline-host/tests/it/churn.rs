//! Hundreds of deploys, crashes and ends, and that nothing is left of them. `make churn MINUTES=20` goes on for longer.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tramline_host::{CallError, Edit, Host, Policy};

use crate::common::{Project, call, context, eventually, get, ok, stop, within};

/// Enough that one descriptor, task, file or process that each round leaves stands out from what comes and goes.
const ROUNDS: usize = 200;
/// Rounds until everything that is kept has been made once.
const FIRST: usize = 20;
/// Between sources that differ: bundling takes most of a round.
const EDIT_EVERY: usize = 10;
/// Names that come and go. Each keeps its log and its bundle.
const NAMES: usize = 10;
/// Between calls of a function that is ended for want of them.
const RARE_EVERY: usize = 8;
const IDLE_MS: u64 = 2_000;
/// Goes on for so long, in place of a number of rounds.
const MINUTES_ENV: &str = "TRAMLINE_CHURN_MINUTES";
/// What it may grow by: allocators keep what they had once.
const MEMORY_GROWTH_KB: u64 = 48 << 10;

/// What one host holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    sockets: usize,
    tasks: usize,
    processes: usize,
    files: usize,
    memory_kb: u64,
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => 1 + files_below(&entry.path()),
            _ => 1,
        })
        .sum()
}

fn held(project: &Project) -> Held {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open: Vec<_> = open.map(|entry| std::fs::read_link(entry.path())).collect();
    let is_socket = |target: &&std::io::Result<std::path::PathBuf>| {
        target
            .as_ref()
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    Held {
        descriptors: open.len(),
        sockets: open.iter().filter(is_socket).count(),
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        processes: project.processes().len(),
        files: files_below(&project.state_dir()),
        memory_kb: memory.split_whitespace().next().unwrap().parse().unwrap(),
    }
}

/// Every way that an instance comes to an end or a call does.
const ROUND: &str = "Deno.serve(async (req) => {
    const path = new URL(req.url).pathname;
    if (path.endsWith('/exit')) Deno.exit(1);
    if (path.endsWith('/file')) await Deno.makeTempFile();
    if (path.endsWith('/wait')) { console.log('waits'); await new Promise(() => {}); }
    return new Response(Deno.env.get('ROUND') ?? 'none'); });";

/// Not a test by itself: a process in which nothing of other tests is counted.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by nothing_is_left_of_hundreds_of_deploys_crashes_and_ends, and by make churn"]
async fn host_that_lives_through_churn() {
    let minutes = std::env::var(MINUTES_ENV)
        .ok()
        .map(|minutes| minutes.parse::<u64>().unwrap());
    let begin = Instant::now();
    let goes_on = |round| match minutes {
        Some(minutes) => begin.elapsed() < Duration::from_secs(minutes * 60),
        None => round < ROUNDS,
    };
    let mut project = Project::new()
        .function("steady", ROUND)
        .function("edited", ROUND)
        .function("rare", ROUND)
        .function_with("fresh", ROUND, |spec| spec.policy = Policy::PerRequest);
    project.limits.spare_workers = 1;
    project.limits.idle_ms = IDLE_MS;
    let host = project.host().await;
    let (mut before, mut round, mut told) = (None, 0, Instant::now());
    while goes_on(round) {
        one_round(&host, &project, round).await;
        if round == FIRST {
            before = Some(settled(&project).await);
        }
        if told.elapsed() >= Duration::from_secs(60) {
            told = Instant::now();
            println!(
                "{:>3} min, round {round}: {:?}",
                begin.elapsed().as_secs() / 60,
                held(&project)
            );
        }
        round += 1;
    }
    let (before, after) = (before.unwrap(), settled(&project).await);
    println!("after {FIRST} rounds {before:?}\nafter {round} rounds {after:?}");
    assert!(after.descriptors < before.descriptors + 16);
    assert!(after.sockets < before.sockets + 8);
    assert!(after.tasks < before.tasks + 16);
    // of the function that is edited the newest versions are kept, four files each
    assert!(after.files < before.files + 5 * 4 + 16);
    assert!(after.memory_kb < before.memory_kb + MEMORY_GROWTH_KB);
    stop(&host).await;
    assert_eq!(project.processes(), Vec::<u32>::new());
}

async fn one_round(host: &Host, project: &Project, round: usize) {
    // deploys: of all but one by their environment, of one also by its source, of one by its name
    let mut specs = project.functions.clone();
    for spec in specs.iter_mut().filter(|spec| spec.name != "rare") {
        spec.env = Project::env("ROUND", &round.to_string());
    }
    if round.is_multiple_of(EDIT_EVERY) {
        project.write(
            "edited/index.ts",
            &format!("{ROUND}\nconsole.log('version {round}');"),
        );
    }
    let mut named = specs[0].clone();
    named.name = format!("named-{}", round % NAMES);
    let name = named.name.clone();
    specs.push(named);
    let edits = within("the deploy", host.update(specs)).await;
    let live = edits.iter().filter(|(_, edit)| *edit == Edit::Live).count();
    assert_eq!(live, 4, "round {round}: {edits:?}");
    let now = ok(&round.to_string());
    // a crash, a call whose caller goes away, an instance of its own, a temporary file
    match within("the crash", host.call("steady", get("/steady/exit"), context())).await {
        // now and then Deno does not come to an end by itself, and the watch ends it
        Err(CallError::WorkerError { .. } | CallError::Limit { .. }) => {}
        other => panic!("round {round}: {:?}", other.map(|response| response.status())),
    }
    assert_eq!(call(host, "steady").await, now);
    call_that_is_left(host).await;
    for name in ["edited", "fresh", &name] {
        assert_eq!(call(host, name).await, now, "{name}");
    }
    if round.is_multiple_of(RARE_EVERY) {
        assert_eq!(call(host, "rare").await.unwrap().0, 200);
    }
    within("a file", host.call("fresh", get("/fresh/file"), context()))
        .await
        .unwrap();
}

async fn call_that_is_left(host: &Host) {
    let mut logs = host.logs();
    let gone = {
        let host = host.clone();
        tokio::spawn(async move {
            host.call("edited", get("/edited/wait"), context())
                .await
                .map(|_| ())
        })
    };
    within("the call to be there", async {
        while logs.recv().await.is_ok_and(|line| line.message != "waits") {}
    })
    .await;
    gone.abort();
}

/// When those that were replaced, and those that nobody calls, are gone: a spare one is left.
async fn settled(project: &Project) -> Held {
    let mut last = None;
    eventually("everything that is over to be gone", || {
        let now = held(project);
        let is_still = last.replace(now.descriptors) == Some(now.descriptors);
        (now.processes == 1 && is_still).then_some(now)
    })
    .await
}

#[test]
fn nothing_is_left_of_hundreds_of_deploys_crashes_and_ends() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "churn::host_that_lives_through_churn",
            "--ignored",
            "--nocapture",
        ])
        .env_remove(MINUTES_ENV)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(told.contains("1 passed"), "{told}");
}
