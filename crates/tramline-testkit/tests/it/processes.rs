//! What happens when the process that owns a server is killed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use tramline_store::embedded::{EmbeddedError, ProjectLock};
use tramline_testkit::{connect, empty_db};

use crate::project::{Project, eventually, process_exists};

/// Starts one of the helpers below in a process of its own, and returns it with the line that it prints.
fn helper(name: &str, project: &Project) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            &format!("processes::{name}"),
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("TRAMLINE_TEST_STATE_DIR", &project.state_dir)
        .env("TRAMLINE_TEST_PORT", project.port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("ready ").map(|(_, rest)| rest.to_owned()));
    (child, line.expect("the helper tells when it is ready"))
}

fn told_state_dir() -> std::path::PathBuf {
    std::env::var_os("TRAMLINE_TEST_STATE_DIR").unwrap().into()
}

/// Lives until it is killed, or its parent is.
fn wait_to_be_killed() {
    let _ = std::io::stdin().read(&mut [0]);
}

#[tokio::test]
#[ignore = "a helper process of other tests"]
async fn owns_a_server() {
    let state_dir = told_state_dir();
    let _lock = ProjectLock::acquire(&state_dir).unwrap();
    let project = Project::at(
        state_dir,
        std::env::var("TRAMLINE_TEST_PORT").unwrap().parse().unwrap(),
    );
    let postgres = project.start().await;
    connect(postgres.url())
        .await
        .batch_execute("create table t as select 7 as n")
        .await
        .unwrap();
    println!("ready {}", postgres.pid());
    wait_to_be_killed();
}

#[tokio::test]
#[ignore = "a helper process of other tests"]
async fn uses_the_shared_cluster() {
    let db = empty_db().await;
    let pid_file = "select pg_read_file('postmaster.pid')";
    let text: String = db.connect().await.query_one(pid_file, &[]).await.unwrap().get(0);
    println!("ready {}", text.lines().next().unwrap());
    wait_to_be_killed();
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_project_of_another_live_process_is_refused_by_its_number() {
    let project = Project::new();
    let (child, pid) = helper("owns_a_server", &project);
    let theirs = child.id();
    for error in [
        ProjectLock::acquire(&project.state_dir).unwrap_err(),
        project.try_start(project.config()).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, EmbeddedError::ProjectInUse { pid: Some(pid), .. } if pid == theirs),
            "{error}"
        );
    }
    assert!(process_exists(pid.parse().unwrap()));
    kill(child);
}

#[tokio::test]
async fn a_project_starts_again_with_its_data_after_its_owner_was_killed() {
    let project = Project::new();
    let (child, pid) = helper("owns_a_server", &project);
    kill(child);
    // at once: the server that lost its owner may still be stopping
    let _lock = ProjectLock::acquire(&project.state_dir).unwrap();
    let postgres = project.start().await;
    assert!(!process_exists(pid.parse().unwrap()));
    let n: i32 = connect(postgres.url())
        .await
        .query_one("select n from t", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(n, 7);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_ends_when_its_owner_is_killed() {
    let project = Project::new();
    for name in ["owns_a_server", "uses_the_shared_cluster"] {
        let (child, pid) = helper(name, &project);
        let pid = pid.parse().unwrap();
        assert!(process_exists(pid));
        kill(child);
        eventually("the server follows its owner", async || !process_exists(pid)).await;
    }
}
