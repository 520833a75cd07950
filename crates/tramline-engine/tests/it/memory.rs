//! What a run takes in the memory of the node that drives it, and how often it asks for memory: counted, not measured, in a
//! process of its own.
//!
//! `cargo test -p tramline-engine memory -- --nocapture` prints what the bytes are made of; `TRAMLINE_TEST_HELD` asks for another
//! number of runs.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use mimalloc::MiMalloc;
use serde_json::json;
use tramline_engine::{EngineConfig, Handlers, Outcome};
use tramline_store::Db;
use tramline_store::api::{self, NewRun};
use tramline_testkit::{TestProcess, test_db};

use crate::support::*;

/// Runs that are held: an eighth of a hundred thousand, so that tables are as full as with all of them.
const HELD: usize = 12_500;
/// Jobs whose allocations are counted.
const JOBS: usize = 5_000;
/// With JSON's own characters about 300 bytes.
const FILLER_BYTES: usize = 280;
/// Most bytes of a run whose call is out, with its input of 300 bytes and all that the engine and the runtime keep for it. What
/// the allocator adds by rounding up is not among them. 1,111 are its own; tables that grow by doubling add 240 to 460, as far as the
/// jobs before had not filled them already.
const RUN_BYTES_MAX: isize = 1_700;
/// Most requests for memory that a job makes which does nothing, from its discovery to its durable end.
const JOB_REQUESTS_MAX: usize = 60;

/// Sizes that are told apart; larger ones are counted together.
const SIZES: usize = 2_048;

/// The allocator of the nodes, counting.
pub struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);
static REQUESTS: AtomicUsize = AtomicUsize::new(0);
static BY_SIZE: [AtomicIsize; SIZES] = [const { AtomicIsize::new(0) }; SIZES];

fn note(size: usize, by: isize) {
    LIVE.fetch_add(by * size.cast_signed(), Relaxed);
    BY_SIZE[size.min(SIZES - 1)].fetch_add(by, Relaxed);
}

#[expect(
    unsafe_code,
    reason = "an allocator can only be written so; it passes everything on as it is"
)]
// SAFETY: every call is the inner allocator's with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        REQUESTS.fetch_add(1, Relaxed);
        note(layout.size(), 1);
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(layout.size(), -1);
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        REQUESTS.fetch_add(1, Relaxed);
        note(layout.size(), -1);
        note(size, 1);
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }
}

/// What is allocated, by size.
fn sizes() -> Vec<isize> {
    BY_SIZE.iter().map(|count| count.load(Relaxed)).collect()
}

/// Sizes of which about one per run is kept, or a part of one, and how many.
fn per_run(before: &[isize], runs: usize) -> String {
    let grown = sizes();
    let grown = grown.iter().zip(before).map(|(now, then)| now - then).enumerate();
    let many = grown.filter(|(_, count)| *count >= runs.cast_signed() / 10);
    let words = many.map(|(size, count)| format!("{:.2} x {size}", count as f64 / runs as f64));
    words.collect::<Vec<_>>().join(", ")
}

/// Megabytes of this process that are in memory.
fn resident_mb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb: usize = line.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kb / 1024
}

fn held() -> usize {
    let asked = std::env::var("TRAMLINE_TEST_HELD");
    asked.map_or(HELD, |count| count.parse().unwrap())
}

/// A node that holds runs, and says what they take.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a helper process of other tests"]
async fn holder() {
    let mut orders = TestProcess::orders();
    let handlers = Handlers::default()
        .with("held", |_call| std::future::pending::<Outcome>())
        .with("noop", |call| async move {
            Outcome::completed(call.body.value().clone())
        });
    let config = EngineConfig {
        active_max: held(),
        calls_max: held(),
        ..EngineConfig::default()
    };
    let url = std::env::var("TRAMLINE_TEST_URL").unwrap();
    let engine = engine_with(&url, config, handlers).await;
    while engine.stats().shards.len() < 16 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    TestProcess::tell("ready");
    let (mut live, mut requests, mut by_size) = (0, 0, sizes());
    while let Some(order) = orders.recv().await {
        match order.as_str() {
            "note" => {
                // What has ended is forgotten when its flush has been answered.
                while engine.stats().known > 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                by_size = sizes();
                (live, requests) = (LIVE.load(Relaxed), REQUESTS.load(Relaxed));
                TestProcess::tell("noted");
            }
            _ => {
                let (bytes, made) = (LIVE.load(Relaxed) - live, REQUESTS.load(Relaxed) - requests);
                let sizes = per_run(&by_size, held());
                TestProcess::tell(&format!("grown {}", json!([bytes, made, resident_mb(), sizes])));
            }
        }
    }
    // The test is gone.
    std::process::exit(0);
}

/// What the process says: bytes and requests since it noted, megabytes in memory, and sizes.
async fn grown(process: &mut TestProcess) -> (isize, usize, usize, String) {
    process.order("tell");
    serde_json::from_str(&process.told("grown").await).unwrap()
}

async fn noted(process: &mut TestProcess) {
    process.order("note");
    process.told("noted").await;
}

async fn enqueue(store: &Db, target: &str, count: usize) {
    for first in (0..count).step_by(500) {
        let runs: Vec<NewRun> = (first..count.min(first + 500))
            .map(|i| NewRun {
                target: target.into(),
                input: json!({ "i": i, "filler": "x".repeat(FILLER_BYTES) }),
                ..NewRun::default()
            })
            .collect();
        let answers = api::enqueue(store, &runs).await.unwrap();
        assert!(answers.iter().all(Result::is_ok));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_call_is_out_takes_little_memory_and_a_job_few_requests_for_it() {
    let db = test_db().await;
    let store = register(&db, &["held", "noop"]).await;
    let client = db.connect().await;
    let mut process = TestProcess::start("memory::holder", &[("TRAMLINE_TEST_URL", db.url())]);
    process.told("ready").await;

    // The first ones fill caches and buffers.
    enqueue(&store, "noop", JOBS).await;
    let jobs = i64::try_from(JOBS).unwrap();
    until_count(&client, "select count(*) from tramline.run_ends", jobs).await;
    noted(&mut process).await;
    enqueue(&store, "noop", JOBS).await;
    until_count(&client, "select count(*) from tramline.run_ends", 2 * jobs).await;
    let (_, requests, before, _) = grown(&mut process).await;
    println!("{} requests for memory per job", requests / JOBS);

    noted(&mut process).await;
    let runs = held();
    enqueue(&store, "held", runs).await;
    // Each is shown as running when its call has been out for a second: then nothing is under way any more.
    let shown = "select count(*) from tramline.run_marks m join tramline.runs r using (run_id) where r.target = 'held'";
    until_count(&client, shown, i64::try_from(runs).unwrap()).await;
    let (bytes, _, after, sizes) = grown(&mut process).await;
    let bytes = bytes / runs.cast_signed();
    println!("{bytes} bytes per run: {sizes}; {before} MB in memory without them, {after} with them");
    assert!(bytes <= RUN_BYTES_MAX, "{bytes} bytes per run: {sizes}");
    assert!(
        requests / JOBS <= JOB_REQUESTS_MAX,
        "{} requests for memory per job",
        requests / JOBS
    );
}
