//! `deploy` and what comes of it: nodes without a shared disk, refusals, two at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::serve::serve;
use crate::support::{Dev, Project, Said, eventually, request, tramline};

/// A project whose one function answers with a word to everybody.
fn source(word: &str) -> Project {
    Project::new()
        .file("supabase/config.toml", "project_id = \"shop\"\n[functions.hello]\nverify_jwt = false\n")
        .file("supabase/functions/_shared/word.ts", &shared(word))
        .file(
            "supabase/functions/hello/index.ts",
            "import { word } from '../_shared/word.ts';\nDeno.serve(() => new Response(`${word} ${Deno.env.get('COLOUR') ?? ''}`));\n",
        )
}

fn shared(word: &str) -> String {
    format!("export const word: string = '{word}';\n")
}

/// A database with its own node, in whose folder there are no functions.
struct Base {
    dev: Dev,
    url: String,
    db_url: String,
    key: String,
}

fn base() -> (Project, Base) {
    let project = Project::new();
    let dev = project.dev();
    let node = project.dev_file()["node"].clone();
    let text = |field: &str| node[field].as_str().unwrap().to_owned();
    let base = Base {
        dev,
        url: text("url"),
        db_url: text("db_url"),
        key: text("service_role_key"),
    };
    (project, base)
}

impl Base {
    fn say_at(&self, project: &Project, url: &str, args: &[&str]) -> Said {
        let mut all = args.to_vec();
        all.extend(["--url", url, "--key", &self.key]);
        project.say(&all)
    }

    fn say(&self, project: &Project, args: &[&str]) -> Said {
        self.say_at(project, &self.url, args)
    }
}

fn hello(url: &str) -> (u16, String) {
    request(&format!("{url}/functions/v1/hello"), None, "")
}

fn outcome<'a>(said: &'a Value, name: &str) -> &'a Value {
    let all = said["functions"].as_array().unwrap();
    all.iter().find(|function| function["name"] == name).unwrap()
}

/// How many calls, and the answers that were not as they should be.
type Hammered = (usize, Vec<(u16, String)>);

/// Calls both nodes without a pause until it is told to stop; the answers that were not 200.
fn hammer(urls: [String; 2]) -> (Arc<AtomicBool>, JoinHandle<Hammered>) {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let calls = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let client = reqwest::Client::new();
            let (mut count, mut failed) = (0, Vec::new());
            while !told.load(Ordering::Acquire) {
                for url in &urls {
                    let answer = client
                        .post(format!("{url}/functions/v1/hello"))
                        .send()
                        .await
                        .unwrap();
                    let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
                    count += 1;
                    if status != 200 || !["one ", "two "].contains(&body.as_str()) {
                        failed.push((status, body));
                    }
                }
            }
            (count, failed)
        })
    });
    (stop, calls)
}

#[test]
fn nodes_without_a_shared_disk_follow_a_deploy_without_a_failed_request() {
    let (_place, base) = base();
    let (place_a, place_b) = (Project::new(), Project::new());
    let (a, a_url) = serve(&place_a, &base.db_url, &[]);
    let (b, b_url) = serve(&place_b, &base.db_url, &[]);
    let project = source("one");
    assert_eq!(hello(&a_url).0, 404);
    let said = base
        .say_at(&project, &a_url, &["deploy", "--json"])
        .ended(0)
        .json();
    let deployed = outcome(&said, "hello");
    assert_eq!(
        (
            deployed["outcome"].as_str(),
            deployed["version"].as_i64(),
            deployed["state"].as_str()
        ),
        (Some("deployed"), Some(1), Some("ready"))
    );
    assert_eq!(
        hello(&a_url),
        (200, "one ".into()),
        "the node that was asked serves it at once"
    );
    let serves = |url: &str, text: &str| (hello(url).1 == text).then_some(());
    eventually("the other node follows", || serves(&b_url, "one "));

    let (stop, calls) = hammer([a_url.clone(), b_url.clone()]);
    project.write("supabase/functions/_shared/word.ts", &shared("two"));
    let said = base
        .say_at(&project, &b_url, &["deploy", "hello", "--json"])
        .ended(0)
        .json();
    assert_eq!(outcome(&said, "hello")["version"], 2);
    for url in [&a_url, &b_url, &base.url] {
        eventually("the second version everywhere", || serves(url, "two "));
    }
    let said = base.say(&project, &["function", "rollback", "hello"]).ended(0);
    assert_eq!(said.out, "hello version 1 is active again\n");
    for url in [&a_url, &b_url] {
        eventually("the first version again", || serves(url, "one "));
    }
    stop.store(true, Ordering::Release);
    let (count, failed) = calls.join().unwrap();
    assert!(count > 0);
    assert_eq!(failed, [], "of {count} requests");

    // a node that comes later has nothing but the database
    let place_c = Project::new();
    let (c, c_url) = serve(&place_c, &base.db_url, &[]);
    assert_eq!(hello(&c_url), (200, "one ".into()));
    // runs find the function too
    let run = base.say_at(&project, &c_url, &["run", "start", "hello", "--wait", "--json"]);
    assert_eq!(run.ended(0).json()["output"], "one ");
    let said = base
        .say(&project, &["function", "versions", "hello", "--json"])
        .ended(0)
        .json();
    let versions: Vec<(i64, bool)> = said
        .as_array()
        .unwrap()
        .iter()
        .map(|version| (version["version"].as_i64().unwrap(), version["active"] == true))
        .collect();
    assert_eq!(versions, [(2, false), (1, true)]);
    base.say(&project, &["function", "activate", "hello", "2"])
        .ended(0);
    base.say(&project, &["function", "activate", "hello", "7"])
        .ended(3);
    base.say(&project, &["function", "delete", "hello"]).ended(0);
    for url in [&a_url, &b_url, &c_url] {
        eventually("it is gone everywhere", || (hello(url).0 == 404).then_some(()));
    }
    base.say(&project, &["function", "rollback", "hello"]).ended(3);
    for node in [a, b, c, base.dev] {
        node.stop();
    }
}

#[test]
fn only_what_changed_is_uploaded_and_nothing_is_half_activated() {
    let (_place, base) = base();
    let project = source("one")
        .function("other", "new Response('other')")
        .file(".dvmrc", "1.46.3\n");
    let said = base.say(&project, &["deploy", "--json"]).ended(0);
    assert!(said.err.contains("the project is for Deno 1.46.3"), "{said:?}");
    let said = said.json();
    for name in ["hello", "other"] {
        assert_eq!(outcome(&said, name)["outcome"], "deployed");
    }
    project.write("supabase/functions/_shared/word.ts", &shared("two"));
    let said = base
        .say(&project, &["deploy", "--dry-run", "--json"])
        .ended(0)
        .json();
    assert_eq!(outcome(&said, "hello")["outcome"], "changed");
    let said = base.say(&project, &["deploy", "--json"]).ended(0).json();
    assert_eq!(outcome(&said, "hello")["version"], 2);
    assert_eq!(
        (
            &outcome(&said, "other")["outcome"],
            &outcome(&said, "other")["version"]
        ),
        (&"unchanged".into(), &1.into())
    );
    // one of two does not bundle
    project.write("supabase/functions/_shared/word.ts", &shared("three"));
    project.write("supabase/functions/other/index.ts", "Deno.serve(");
    let said = base.say(&project, &["deploy"]).ended(4);
    assert!(
        said.err.contains("failed to deploy other") && said.err.contains("nothing was activated"),
        "{said:?}"
    );
    assert!(said.err.contains("supabase/functions/other/index.ts"), "{said:?}");
    assert_eq!(hello(&base.url), (200, "two ".into()));
    // settings of tramline.toml travel along, and are checked by the node too
    let project = project.file(
        "tramline.toml",
        "[functions.hello]\nauth = \"cron\"\n[functions.other]\nauth = \"none\"\nreason = \"a test\"\n",
    );
    base.say(&project, &["deploy", "hello"]).ended(0);
    assert_eq!(hello(&base.url).0, 401, "the guard came with the version");
    base.dev.stop();
}

#[test]
fn the_packages_of_a_version_are_recorded_with_it() {
    let (_place, base) = base();
    let project = Project::new().file(
        "supabase/functions/hello/index.ts",
        "import { z } from 'npm:zod@3.22.4';\nDeno.serve(() => new Response(z.string().parse('ok')));\n",
    );
    base.say(&project, &["deploy"]).ended(0);
    let said = base
        .say(&project, &["function", "versions", "hello", "--json"])
        .ended(0)
        .json();
    let package = &said[0]["dependencies"][0];
    assert_eq!(
        (&package["name"], &package["version"]),
        (&"zod".into(), &"3.22.4".into())
    );
    let said = base
        .say(&project, &["function", "list", "--json"])
        .ended(0)
        .json();
    assert_eq!(
        (&said[0]["deployed"], &said[0]["dependencies"][0]),
        (&1.into(), package)
    );
    base.dev.stop();
}

#[test]
fn a_version_that_does_not_start_leaves_the_one_that_works() {
    let (_place, base) = base();
    let project = source("one");
    base.say(&project, &["deploy"]).ended(0);
    project.write("supabase/functions/hello/index.ts", "throw new Error('no key');");
    let said = base.say(&project, &["deploy"]).ended(1);
    assert!(
        said.err
            .contains("does not start, the node goes on with version 1"),
        "{said:?}"
    );
    assert_eq!(hello(&base.url), (200, "one ".into()));
    base.say(&project, &["function", "rollback", "hello"]).ended(0);
    base.dev.stop();
}

#[test]
fn what_must_not_be_deployed_is_refused_before_anything_is_sent() {
    let project = source("one");
    let key = format!("sb_secret_{}", "N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz");
    project.write(
        "supabase/functions/_shared/word.ts",
        &format!("// a key\nexport const word = '{key}';\n"),
    );
    // nothing listens there: it does not come so far
    let at = ["--url", "http://127.0.0.1:9", "--key", "x"];
    let deploy = |more: &[&str]| project.say(&[&["deploy"], more, &at[..]].concat());
    let said = deploy(&[]).ended(4);
    assert!(
        said.err
            .contains("supabase/functions/_shared/word.ts:2: holds a secret key"),
        "{said:?}"
    );
    assert!(!said.err.contains(&key));
    project.write("supabase/functions/_shared/word.ts", &shared("one"));
    let said = deploy(&["helo"]).ended(3);
    assert!(said.err.contains("did you mean hello"), "{said:?}");
    deploy(&[]).ended(5);
    // a link that leads out of the project
    std::fs::remove_file(project.path().join("supabase/functions/_shared/word.ts")).unwrap();
    std::os::unix::fs::symlink(
        "/etc/hostname",
        project.path().join("supabase/functions/_shared/word.ts"),
    )
    .unwrap();
    let said = deploy(&[]).ended(4);
    assert!(said.err.contains("a link that leads outside"), "{said:?}");
}

#[test]
fn tokens_deploy_until_they_are_revoked_and_two_deploys_at_once_are_two_versions() {
    let (_place, base) = base();
    let (one, two) = (source("one"), source("two"));
    let token = base
        .say(&one, &["token", "create", "ci", "--expires", "1h"])
        .ended(0)
        .out;
    let token = token.trim();
    assert!(token.starts_with("sbp_") && token.len() == 44, "{token}");
    let deploy = |project: &Project| {
        let mut command = tramline(project.path(), &["deploy", "--json", "--url", &base.url]);
        command.env("TRAMLINE_KEY", token);
        command
    };
    let children: Vec<_> = [&one, &two]
        .iter()
        .map(|project| {
            let mut command = deploy(project);
            command.stdout(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let mut versions: Vec<i64> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let said: Value = serde_json::from_slice(&output.stdout).unwrap();
            outcome(&said, "hello")["version"].as_i64().unwrap()
        })
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2]);
    let (status, body) = hello(&base.url);
    assert!(
        status == 200 && ["one ", "two "].contains(&body.as_str()),
        "{status} {body}"
    );
    let said = base
        .say(&one, &["function", "versions", "hello", "--json"])
        .ended(0)
        .json();
    assert_eq!(said[0]["created_by"], "token:ci");
    assert!(base.say(&one, &["token", "list"]).ended(0).out.contains("ci"));

    base.say(&one, &["token", "revoke", "ci"]).ended(0);
    base.say(&one, &["token", "revoke", "ci"]).ended(3);
    let refused = crate::support::finish(deploy(&one)).ended(7);
    assert!(
        refused
            .err
            .contains("Access token is not known, expired or revoked"),
        "{refused:?}"
    );
    base.dev.stop();
}
