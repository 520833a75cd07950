//! Hundreds of deploys, crashes and ends, and that nothing is left of them.

use std::path::Path;
use std::process::{Command, Stdio};

use tramline_host::{CallError, Edit, Policy};

use crate::common::{Project, call, context, eventually, get, ok, stop, within};

/// Enough that one descriptor, task, file or process that each round leaves stands out from what comes and goes.
const ROUNDS: usize = 200;
/// Rounds until everything that is kept has been made once.
const FIRST: usize = 20;
/// Between sources that differ: bundling takes most of a round.
const EDIT_EVERY: usize = 10;

/// What one host holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    descriptors: usize,
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
    Held {
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        processes: project.processes().len(),
        files: files_below(&project.state_dir()),
        memory_kb: memory.split_whitespace().next().unwrap().parse().unwrap(),
    }
}

const ROUND: &str = "Deno.serve(async (req) => {
    const path = new URL(req.url).pathname;
    if (path.endsWith('/exit')) Deno.exit(1);
    if (path.endsWith('/file')) await Deno.makeTempFile();
    if (path.endsWith('/wait')) { console.log('waits'); await new Promise(() => {}); }
    return new Response(Deno.env.get('ROUND')); });";

/// Not a test by itself: a process in which nothing of other tests is counted.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by nothing_is_left_of_hundreds_of_deploys_crashes_and_ends"]
async fn host_that_lives_through_churn() {
    let mut project = Project::new()
        .function("steady", ROUND)
        .function("edited", ROUND)
        .function_with("fresh", ROUND, |spec| spec.policy = Policy::PerRequest);
    project.limits.spare_workers = 1;
    let host = project.host().await;
    let mut before = None;
    for round in 0..ROUNDS {
        // deploys: of all of them by their environment, of one also by its source, of one by its name
        let mut specs = project.functions.clone();
        for spec in &mut specs {
            spec.env = Project::env("ROUND", &round.to_string());
        }
        if round % EDIT_EVERY == 0 {
            project.write(
                "edited/index.ts",
                &format!("{ROUND}\nconsole.log('version {round}');"),
            );
        }
        let mut named = specs[0].clone();
        named.name = format!("named-{round}");
        specs.push(named);
        let edits = within("the deploy", host.update(specs)).await;
        let live = edits.iter().filter(|(_, edit)| *edit == Edit::Live).count();
        assert_eq!(live, 4, "{edits:?}");
        let now = ok(&round.to_string());
        // a crash, a call whose caller goes away, an instance of its own, a temporary file
        match within("the crash", host.call("steady", get("/steady/exit"), context())).await {
            // now and then Deno does not come to an end by itself, and the watch ends it
            Err(CallError::WorkerError { .. } | CallError::Limit { .. }) => {}
            other => panic!("round {round}: {:?}", other.map(|response| response.status())),
        }
        assert_eq!(call(&host, "steady").await, now);
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
        for name in ["edited", "fresh", &format!("named-{round}")] {
            assert_eq!(call(&host, name).await, now, "{name}");
        }
        within("a file", host.call("fresh", get("/fresh/file"), context()))
            .await
            .unwrap();
        if round == FIRST {
            before = Some(settled(&project).await);
        }
    }
    let (before, after) = (before.unwrap(), settled(&project).await);
    println!("before {before:?}\nafter  {after:?}");
    let rounds = ROUNDS - FIRST;
    assert!(after.descriptors < before.descriptors + 16, "of {rounds} rounds");
    assert!(after.tasks < before.tasks + 16, "of {rounds} rounds");
    // each name there has been keeps its log and its bundle: four files in two folders; each version that is kept has four
    let kept = rounds * 7 + 5 * 4;
    assert!(after.files < before.files + kept + 16, "of {rounds} rounds");
    assert!(
        after.memory_kb < before.memory_kb + (48 << 10),
        "of {rounds} rounds"
    );
    stop(&host).await;
    assert_eq!(project.processes(), Vec::<u32>::new());
}

/// When those that were replaced are gone: the last round's three shared instances and a spare one are left.
async fn settled(project: &Project) -> Held {
    let mut last = None;
    eventually("everything that is over to be gone", || {
        let now = held(project);
        let is_still = last.replace(now.descriptors) == Some(now.descriptors);
        (now.processes == 4 && is_still).then_some(now)
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
