//! `serve`: several nodes on one database.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Dev, Project, eventually, request, tramline};

/// Short, so that a takeover is seen soon.
const LEASE: (&str, &str) = ("TRAMLINE_ENGINE_LEASE_SECONDS", "2");

pub fn serve(project: &Project, db_url: &str, more: &[&str]) -> (Dev, String) {
    let mut command = tramline(
        project.path(),
        &["serve", "--database-url", db_url, "--listen", "127.0.0.1:0"],
    );
    command
        .args(["--cron-secret", "a-secret-of-the-test", "--allow-local-keys"])
        .args(more)
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

    let (mut other, other_url) = serve(&project, db_url, &[]);
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
    let (other, other_url) = serve(&project, db_url, &[]);
    eventually("an even share", || {
        (shards_owned(&project, &other_url, key) == 8).then_some(())
    });
    other.stop();
    eventually("the handover", || {
        (shards_owned(&project, url, key) == 16).then_some(())
    });
    dev.stop();
}

/// A function that starts a run through the project's API becomes its source, and the run in whose step it was called its
/// parent, also when the API is another node's.
#[test]
fn a_call_between_nodes_keeps_its_place_in_the_ledger() {
    let parent = "import { createClient } from 'jsr:@supabase/supabase-js@2';
Deno.serve(async () => {
  const url = Deno.env.get('SUPABASE_URL');
  const client = createClient(url, Deno.env.get('SUPABASE_SERVICE_ROLE_KEY'));
  const { data, error } = await client.schema('ops').from('runs').insert({ target: 'child' }).select('run_id').single();
  return Response.json({ url, child: data?.run_id, error });
});
";
    let project = Project::new()
        .file("supabase/functions/parent/index.ts", parent)
        .function("child", "Response.json({})");
    let mut command = tramline(project.path(), &["dev", "--port", "0", "--db-port", "0"]);
    command.env(LEASE.0, LEASE.1);
    let mut dev = Dev::of(command);
    dev.wait_for("function parent is ready");
    dev.wait_for("function child is ready");
    let node = project.dev_file()["node"].clone();
    let (url, db_url) = (node["url"].as_str().unwrap(), node["db_url"].as_str().unwrap());
    let key = node["service_role_key"].as_str().unwrap();
    // the second node's functions call the first one's API, under a name that tells which node they ran on
    let public = url.replace("127.0.0.1", "localhost");
    let (other, other_url) = serve(&project, db_url, &["--public-url", &public]);
    eventually("an even share", || {
        (shards_owned(&project, &other_url, key) == 8).then_some(())
    });

    let run = eventually("a run that the second node drives", || {
        let said = project.say(&[
            "run", "start", "parent", "--wait", "--json", "--url", url, "--key", key,
        ]);
        let run = said.ended(0).json();
        assert_eq!(run["output"]["error"], Value::Null, "{run}");
        (run["output"]["url"] == public.as_str()).then_some(run)
    });
    let shown = |id: &Value| {
        let said = project.say(&[
            "run",
            "show",
            id.as_str().unwrap(),
            "--json",
            "--url",
            url,
            "--key",
            key,
        ]);
        let shown = said.ended(0).json();
        shown.get("run").cloned().unwrap_or(shown)
    };
    let child = shown(&run["output"]["child"]);
    assert_eq!(
        (&child["source"], &child["parent_run_id"]),
        (&Value::from("function:parent"), &run["run_id"]),
        "{child}"
    );

    // called without a run: no parent
    let direct = format!("{other_url}/functions/v1/parent");
    let (status, answer) = request(&direct, Some(key), "{}");
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let child = shown(&answer["child"]);
    assert_eq!(
        (
            &child["source"],
            child.get("parent_run_id").unwrap_or(&Value::Null)
        ),
        (&Value::from("function:parent"), &Value::Null),
        "{child}"
    );
    other.stop();
    dev.stop();
}
