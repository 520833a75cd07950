//! `serve`: several nodes on one database.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Dev, Project, eventually, tramline};

/// Short, so that a takeover is seen soon.
const LEASE: (&str, &str) = ("TRAMLINE_ENGINE_LEASE_SECONDS", "2");

fn serve(project: &Project, db_url: &str) -> (Dev, String) {
    let mut command = tramline(
        project.path(),
        &["serve", "--database-url", db_url, "--listen", "127.0.0.1:0"],
    );
    command
        .args(["--cron-secret", "a-secret-of-the-test", "--allow-local-keys"])
        .env(LEASE.0, LEASE.1);
    let mut node = Dev::of(command);
    let line = node.wait_for("serving on http://");
    let url = line.trim_start_matches("serving on ").to_owned();
    (node, url)
}

fn shards_owned(project: &Project, url: &str, key: &str) -> usize {
    let status: Value = project
        .say(&["status", "--json", "--url", url, "--key", key])
        .ended(0)
        .json();
    status["shards_owned"].as_array().unwrap().len()
}

#[test]
fn nodes_share_the_shards_and_replace_each_other() {
    let project = Project::example("hello");
    let mut command = tramline(project.path(), &["dev", "--port", "0", "--db-port", "0"]);
    command.env(LEASE.0, LEASE.1);
    let mut dev = Dev::of(command);
    dev.wait_for("ready in ");
    let node = project.dev_file()["node"].clone();
    let (url, db_url) = (node["url"].as_str().unwrap(), node["db_url"].as_str().unwrap());
    let key = node["service_role_key"].as_str().unwrap();

    let (mut other, other_url) = serve(&project, db_url);
    eventually("an even share", || {
        (shards_owned(&project, url, key) == 8 && shards_owned(&project, &other_url, key) == 8).then_some(())
    });
    for at in [url, &other_url] {
        // whoever drives it, the caller gets its end
        for _ in 0..4 {
            let run = project.say(&[
                "run", "start", "hello", "--wait", "--json", "--url", at, "--key", key,
            ]);
            assert_eq!(run.ended(0).json()["output"]["message"], "Hello world!");
        }
    }
    other.signal(Signal::SIGKILL);
    other.ended();
    eventually("the takeover", || {
        (shards_owned(&project, url, key) == 16).then_some(())
    });

    // one that stops in order hands its shards over
    let (other, other_url) = serve(&project, db_url);
    eventually("an even share", || {
        (shards_owned(&project, &other_url, key) == 8).then_some(())
    });
    other.stop();
    eventually("the handover", || {
        (shards_owned(&project, url, key) == 16).then_some(())
    });
    dev.stop();
}
