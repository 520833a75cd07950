//! Processes: none is left, whatever happens.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::common::{Project, call, eventually, ok, processes_naming, stop};

const HELLO: &str = "Deno.serve(() => new Response('hello'));";

#[tokio::test(flavor = "multi_thread")]
async fn no_process_and_no_folder_is_left_after_a_stop() {
    let mut project = Project::new().function("one", HELLO).function("two", HELLO).function(
        "stubborn",
        "Deno.addSignalListener('SIGTERM', () => console.log('not now')); Deno.serve(() => new Response('hello'));",
    );
    project.limits.spare_workers = 1;
    let host = project.host().await;
    assert_eq!(call(&host, "stubborn").await, ok("hello"));
    eventually("the spare worker", || {
        (project.processes().len() == 4).then_some(())
    })
    .await;
    stop(&host).await;
    assert_eq!(project.processes(), Vec::<u32>::new());
    drop(host);
    let run = project.state_dir().join("run");
    eventually("the run folder to be empty", || {
        (std::fs::read_dir(&run).unwrap().count() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_is_left_when_the_host_is_stopped_while_starting() {
    let project = Project::new().function("one", HELLO).function("two", HELLO);
    let config = tramline_host::HostConfig {
        state_dir: project.state_dir(),
        deno: crate::common::deno(),
        project_dir: project.dir.path().to_owned(),
        limits: project.limits.clone(),
        max_spawns: 2,
        sandbox: tramline_host::SandboxConfig::default(),
        own_addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
    };
    let host = tramline_host::Host::start(config, project.functions.clone())
        .await
        .unwrap();
    stop(&host).await;
    assert_eq!(project.processes(), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_confined() {
    let project = Project::new().function("hello", HELLO);
    let host = project.host().await;
    let pid = project.processes()[0];
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let status = read("status");
    assert!(
        status.contains("NoNewPrivs:\t1\n") && status.contains("Umask:\t0077\n"),
        "{status}"
    );
    let limits = read("limits");
    let limit = |name: &str| {
        limits
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .split_whitespace()
            .rev()
            .nth(1)
    };
    assert_eq!(limit("Max core file size"), Some("0"));
    assert_eq!(limit("Max open files"), Some("4096"));
    assert_ne!(limit("Max data size"), Some("unlimited"));
    // session and group are its own: the sixth and fifth fields, after the name in brackets
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(
        (fields[2], fields[3]),
        (pid.to_string().as_str(), pid.to_string().as_str())
    );
    let environ = read("environ");
    assert!(
        !environ.contains("PATH=") && !environ.contains("HOME="),
        "{environ}"
    );
    stop(&host).await;
}

/// Not a test by itself: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by workers_die_with_a_killed_host"]
async fn host_that_waits_to_be_killed() {
    let mut project = Project::new().function("hello", HELLO);
    project.limits.spare_workers = 1;
    let host = project.host().await;
    assert_eq!(call(&host, "hello").await, ok("hello"));
    eventually("the spare worker", || {
        (project.processes().len() == 2).then_some(())
    })
    .await;
    println!("\nready {}", project.dir.path().canonicalize().unwrap().display());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_die_with_a_killed_host() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "lifecycle::host_that_waits_to_be_killed",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("ready ").map(str::to_owned));
    let folder = std::path::PathBuf::from(ready.expect("the child host starts"));
    assert_eq!(processes_naming(&folder).len(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the workers' end", || {
        processes_naming(&folder).is_empty().then_some(())
    })
    .await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_project_folder_gets_short_socket_paths() {
    let deep = "a-rather-long-folder-name/".repeat(6);
    let mut project = Project::new();
    let inner = project.dir.path().join(deep);
    std::fs::create_dir_all(inner.join("supabase/functions/hello")).unwrap();
    std::fs::write(inner.join("supabase/functions/hello/index.ts"), HELLO).unwrap();
    project.functions.push(tramline_host::FunctionSpec {
        name: "hello".into(),
        entrypoint: inner.join("supabase/functions/hello/index.ts"),
        ..Default::default()
    });
    let config = tramline_host::HostConfig {
        state_dir: inner.join(".tramline"),
        deno: crate::common::deno(),
        project_dir: inner,
        limits: project.limits.clone(),
        max_spawns: 1,
        sandbox: tramline_host::SandboxConfig::default(),
        own_addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
    };
    let host = tramline_host::Host::start(config, project.functions.clone())
        .await
        .unwrap();
    assert_eq!(call(&host, "hello").await, ok("hello"));
    stop(&host).await;
}
