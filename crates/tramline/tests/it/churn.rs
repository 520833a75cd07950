//! A whole node through deploys, crashes, calls that are left, and runs, and that nothing is left of them in its process.
//! `make churn MINUTES=20` goes on for longer.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::support::{Dev, Project, descendants, eventually};

/// Enough that one descriptor, file or process that each round leaves stands out from what comes and goes.
const ROUNDS: usize = 40;
/// Rounds until everything that is kept has been made once: buffers, connections of pools, newest versions.
const FIRST: usize = 10;
/// Between edits: bundling takes most of a round.
const EDIT_EVERY: usize = 5;
/// Runs of a round.
const RUNS: usize = 5;
/// Goes on for so long, in place of a number of rounds.
const MINUTES_ENV: &str = "TRAMLINE_CHURN_MINUTES";
/// What it may grow by, between two looks: allocators keep what they had once.
const MEMORY_GROWTH_KB: u64 = 48 << 10;
/// What comes and goes by itself: a poll under way, a spare process that is just started, a log that is turned.
const SLACK: usize = 16;

/// Every way that an instance or a call comes to an end.
const STEADY: &str = r#"
Deno.serve(async (req) => {
  const path = new URL(req.url).pathname;
  if (path.endsWith('/exit')) Deno.exit(1);
  if (path.endsWith('/file')) await Deno.makeTempFile();
  if (path.endsWith('/stream')) {
    return new Response(new ReadableStream({ start: (out) => out.enqueue(new TextEncoder().encode('begun')) }));
  }
  return Response.json(await req.json().catch(() => ({})));
});
"#;

/// What the node's process and its children hold.
#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: usize,
    sockets: usize,
    threads: usize,
    processes: usize,
    files: usize,
    memory_kb: u64,
}

impl Held {
    fn of(dev: &Dev, project: &Project) -> Held {
        let pid = dev.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |key: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let open: Vec<_> = open
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .collect();
        let is_socket = |target: &&std::path::PathBuf| target.to_string_lossy().starts_with("socket:");
        Held {
            descriptors: open.len(),
            sockets: open.iter().filter(is_socket).count(),
            threads: usize::try_from(number("Threads:")).unwrap(),
            processes: descendants(pid).len(),
            files: files_below(&project.path().join(".tramline")),
            memory_kb: number("VmRSS:"),
        }
    }

    /// Whether nothing of what happened since is left.
    fn is_no_more_than(&self, before: &Held) -> bool {
        self.descriptors <= before.descriptors + SLACK
            && self.sockets <= before.sockets + SLACK
            && self.threads <= before.threads + SLACK
            && self.processes <= before.processes + SLACK / 2
            // of a function that is edited the newest versions are kept, four files each
            && self.files <= before.files + 5 * 4 + SLACK
            && self.memory_kb <= before.memory_kb + MEMORY_GROWTH_KB
    }
}

/// The database's own files are not the node's.
fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(_) if entry.file_name() == "postgres" || entry.file_name() == "deno" => 0,
            Ok(kind) if kind.is_dir() => 1 + files_below(&entry.path()),
            _ => 1,
        })
        .sum()
}

/// What a round needs.
struct Node {
    url: String,
    key: String,
}

impl Node {
    async fn post(&self, client: &reqwest::Client, path: &str, body: &Value) -> reqwest::Response {
        let request = client.post(format!("{}{path}", self.url)).bearer_auth(&self.key);
        request.json(body).send().await.unwrap()
    }

    async fn round(&self, round: usize) {
        // connections of their own, which end with the round
        let client = reqwest::Client::new();
        let at = |path: &str| format!("/functions/v1/{path}");
        let answer = self
            .post(&client, &at("steady"), &json!({ "round": round }))
            .await;
        assert_eq!(answer.status(), 200, "round {round}");
        // one that crashes again soon after is started with growing delays: only a new version, and one that is nobody's
        let was_edited = round.is_multiple_of(EDIT_EVERY);
        for name in ["fresh", "edited"].into_iter().take(1 + usize::from(was_edited)) {
            let path = at(&format!("{name}/exit"));
            let crash = self.post(&client, &path, &json!({})).await.status();
            // now and then Deno does not come to an end by itself, and the watch ends it
            assert!(crash == 500 || crash == 546, "round {round}, {name}: {crash}");
        }
        for path in ["fresh/file", "edited"] {
            let answer = self.post(&client, &at(path), &json!({})).await;
            assert_eq!(answer.status(), 200, "round {round}, {path}");
        }
        // a call that is left in the middle of its answer
        let left = self.post(&client, &at("edited/stream"), &json!({})).await;
        let first = left.bytes_stream().next().await.unwrap().unwrap();
        assert_eq!(first, "begun");
        // a log that somebody followed
        let logs = client.get(format!("{}/api/v1/functions/steady/logs?follow=1", self.url));
        let follows = logs.bearer_auth(&self.key).send().await.unwrap();
        assert_eq!(follows.status(), 200);
        drop(follows);
        let rest = client.get(format!("{}/rest/v1/runs?select=run_id&limit=1", self.url));
        let rest = rest.bearer_auth(&self.key).header("accept-profile", "ops");
        assert_eq!(rest.send().await.unwrap().status(), 200);
        for run in 0..RUNS {
            let target = if run == 0 { "two" } else { "steady" };
            let run = json!({ "target": target, "input": { "round": round } });
            let started = self.post(&client, "/api/v1/runs?wait=60", &run).await;
            let status = started.status();
            let run: Value = started.json().await.unwrap();
            assert!(
                status.is_success() && run["status"] == "completed",
                "round {round}: {run}"
            );
        }
    }
}

fn churn(goes_on: impl Fn(usize, Instant) -> bool) {
    let step =
        |name: &str| json!({ "name": name, "function": "edited", "action": name, "payload_template": {} });
    let workflow = json!({ "name": "two", "steps": [step("first"), { "name": "pause", "sleep": "10ms" }, step("second")] });
    let project = Project::new()
        .file("supabase/functions/steady/index.ts", STEADY)
        .file("supabase/functions/edited/index.ts", STEADY)
        .file("supabase/functions/fresh/index.ts", STEADY)
        .file("tramline/workflows/two.json", &workflow.to_string())
        .file("tramline.toml", "[functions.fresh]\npolicy = \"per_request\"\n");
    let mut dev = project.dev();
    for name in ["steady", "edited", "fresh"] {
        dev.wait_for(&format!("function {name} is ready"));
    }
    let file = project.dev_file()["node"].clone();
    let node = Node {
        url: file["url"].as_str().unwrap().to_owned(),
        key: file["service_role_key"].as_str().unwrap().to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (begin, mut told, mut round, mut before) = (Instant::now(), Instant::now(), 0, None);
    while goes_on(round, begin) {
        if round.is_multiple_of(EDIT_EVERY) {
            let text = format!("console.log('version {round}');{STEADY}");
            project.write("supabase/functions/edited/index.ts", &text);
            dev.wait_for_next("function edited is live as edited");
        }
        runtime.block_on(node.round(round));
        round += 1;
        if round == FIRST {
            before = Some(Held::of(&dev, &project));
        }
        if told.elapsed() >= Duration::from_secs(60) {
            told = Instant::now();
            println!(
                "{:>3} min, round {round}: {:?}",
                begin.elapsed().as_secs() / 60,
                Held::of(&dev, &project)
            );
        }
    }
    let before = before.unwrap();
    let mut after = Held::of(&dev, &project);
    println!("after {FIRST} rounds {before:?}\nafter {round} rounds {after:?}");
    eventually(
        &format!("no more to be held than {before:?}, as it was {after:?}"),
        || {
            after = Held::of(&dev, &project);
            after.is_no_more_than(&before).then_some(())
        },
    );
    dev.stop();
}

#[test]
fn a_node_holds_no_more_after_rounds_of_deploys_crashes_and_runs() {
    churn(|round, _| round < ROUNDS);
}

#[test]
#[ignore = "goes on for as long as TRAMLINE_CHURN_MINUTES says; run by make churn"]
fn for_a_chosen_time() {
    let minutes: u64 = std::env::var(MINUTES_ENV).unwrap().parse().unwrap();
    churn(|_, begin| begin.elapsed() < Duration::from_secs(minutes * 60));
}
