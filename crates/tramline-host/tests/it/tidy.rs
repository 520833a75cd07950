//! What is left on disk of functions that are gone, and of logs that are old.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tramline_host::{Edit, LogLine};

use crate::common::{Project, call, deno, eventually, log_with, ok, stop, within};

const HELLO: &str = "Deno.serve(() => { console.log('said'); return new Response('hello'); });";
/// Of functions that are gone, so many are kept (`GONE_MAX`).
const KEPT: usize = 32;

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries
        .map(|entry| entry.file_name().to_str().unwrap().to_owned())
        .collect()
}

fn set_age(path: &Path, age: Duration) {
    let file = std::fs::File::open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_are_gone_leave_the_newest_few() {
    let project = Project::new().function("stays", HELLO);
    let (bundles, logs) = (
        project.state_dir().join("bundles"),
        project.state_dir().join("logs"),
    );
    std::fs::create_dir_all(&logs).unwrap();
    let hour = Duration::from_secs(3_600);
    let made = |number: usize| {
        let age = hour * u32::try_from(number).unwrap();
        let folder = bundles.join(format!("gone-{number}")).join("inner");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("x.js"), "").unwrap();
        set_age(&folder, age);
        set_age(folder.parent().unwrap(), age);
        for extension in ["log", "log.1"] {
            let log = logs.join(format!("gone-{number}.{extension}"));
            std::fs::write(&log, "").unwrap();
            set_age(&log, age);
        }
    };
    (1..=KEPT + 8).for_each(made);
    let kept: BTreeSet<String> = (1..=KEPT).map(|number| format!("gone-{number}")).collect();
    let host = project.host().await;
    assert_eq!(call(&host, "stays").await, ok("hello"));
    log_with(&host, "said").await;
    eventually("the oldest to be gone", || {
        let mut left = names(&bundles);
        left.remove("warm-up.js");
        let stays = left.remove("stays");
        let log_names = names(&logs);
        let mut left_logs: BTreeSet<&str> = log_names
            .iter()
            .filter_map(|name| name.split('.').next())
            .collect();
        left_logs.remove("stays");
        (stays && left == kept && left_logs.into_iter().eq(kept.iter().map(String::as_str))).then_some(())
    })
    .await;
    // it still runs what it ran
    assert_eq!(call(&host, "stays").await, ok("hello"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_entries_are_kept_for_their_time() {
    let mut project = Project::new().function("talks", HELLO).function("new", HELLO);
    let hour = Duration::from_secs(3_600);
    project.limits.log_keep_ms = 8 * 3_600_000;
    let host = project.host().await;
    assert_eq!(call(&host, "talks").await, ok("hello"));
    let line = log_with(&host, "said").await;
    stop(&host).await;

    let logs = project.state_dir().join("logs");
    let entry = |age: Duration| {
        let age = i64::try_from(age.as_millis()).unwrap();
        let entry = LogLine {
            at: line.at - age,
            ..line.clone()
        };
        serde_json::to_string(&entry).unwrap() + "\n"
    };
    // the first entry is older than half of the time: it waits in the older file; what waited there is over
    std::fs::write(logs.join("talks.log"), entry(5 * hour) + &entry(hour)).unwrap();
    std::fs::write(logs.join("talks.log.1"), entry(9 * hour)).unwrap();
    std::fs::write(logs.join("new.log"), entry(hour)).unwrap();
    std::fs::write(logs.join("new.log.1"), entry(9 * hour)).unwrap();
    set_age(&logs.join("new.log.1"), 5 * hour);
    let host = project.host().await;
    eventually("the old entries to be put away", || {
        let has = |name: &str| logs.join(name).exists();
        let turned = std::fs::read_to_string(logs.join("talks.log.1")).unwrap_or_default();
        let turned = turned.starts_with(&entry(5 * hour)) && turned.contains(&entry(hour));
        (turned && !has("talks.log") && has("new.log") && !has("new.log.1")).then_some(())
    })
    .await;
    // what comes now goes into a file of its own
    assert_eq!(call(&host, "talks").await, ok("hello"));
    stop(&host).await;
    let fresh = std::fs::read_to_string(logs.join("talks.log")).unwrap();
    assert_eq!(fresh.lines().count(), 1, "{fresh}");
}

/// Tells which bundles there is compiled code of.
const COMPILED: &str = r#"import { DatabaseSync } from "node:sqlite";
    const database = new DatabaseSync(Deno.args[0], { readOnly: true });
    for (const { specifier } of database.prepare("select distinct specifier from codecache").all()) {
        if (specifier.includes("/bundles/large/")) console.log(new URL(specifier).pathname);
    }"#;

async fn compiled(project: &Project) -> Vec<String> {
    let script = project.dir.path().join("compiled.ts");
    std::fs::write(&script, COMPILED).unwrap();
    let told = tokio::process::Command::new(deno())
        .args(["run", "--quiet", "--no-config", "--allow-read", "--allow-write"])
        .arg(&script)
        .arg(project.state_dir().join("cache/v8_code_cache_v2"))
        .env("DENO_DIR", project.dir.path().join("reader"))
        .output();
    let told = within("the reader", told).await.unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let paths = String::from_utf8(told.stdout).unwrap();
    paths.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compiled_of_bundles_that_are_gone_is_forgotten() {
    // a text is kept with what was compiled of it
    let large = |version: usize| {
        let letter = |i: usize| char::from(b'a' + u8::try_from((i * 7 + version) % 26).unwrap());
        let text: String = (0..(1 << 20)).map(letter).collect();
        format!("const text = '{text}'; Deno.serve(() => new Response('{version} ' + text.length));")
    };
    let project = Project::new().function("large", &large(0));
    let host = project.host().await;
    for version in 1..=12 {
        project.write("large/index.ts", &large(version));
        assert_eq!(within("the edit", host.reload("large")).await, Some(Edit::Live));
    }
    stop(&host).await;
    let before = compiled(&project).await;
    let gone = before.iter().filter(|path| !Path::new(path).exists()).count();
    assert!(gone > 4, "{before:?}");
    let host = project.host().await;
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    loop {
        let now = compiled(&project).await;
        if now.iter().all(|path| Path::new(path).exists()) {
            assert!(!now.is_empty(), "what there is stays compiled");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{now:?} is still there");
    }
    assert_eq!(call(&host, "large").await, ok("12 1048576"));
    stop(&host).await;
}
