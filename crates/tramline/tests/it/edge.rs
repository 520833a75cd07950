//! What the gateway does before a function is woken: idempotency keys over nodes and restarts, schemas of bodies.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::serve::serve;
use crate::support::{Project, eventually, request};

/// Sends these requests at once: status and body of each.
fn at_once(requests: &[(&str, &str, &str, &str)]) -> Vec<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = reqwest::Client::new();
    runtime.block_on(async {
        let sent = requests.iter().map(|(url, bearer, key, body)| {
            let request = client
                .post(*url)
                .bearer_auth(bearer)
                .header("idempotency-key", *key)
                .header("content-type", "application/json")
                .body((*body).to_owned());
            async move {
                let response = request.send().await.unwrap();
                (response.status().as_u16(), response.text().await.unwrap())
            }
        });
        futures_util::future::join_all(sent).await
    })
}

#[test]
fn a_key_is_one_answer_on_all_nodes_and_after_they_are_gone() {
    let project = Project::new()
        .function("pay", "new Response(crypto.randomUUID(), { status: 201 })")
        .function("fail", "new Response(crypto.randomUUID(), { status: 500 })")
        .file(
            "tramline.toml",
            "[functions.pay]\nidempotency = true\n[functions.fail]\nidempotency = { requests = true, retention = \"1h\" }\n",
        );
    let mut dev = project.dev();
    dev.wait_for("function pay is ready");
    dev.wait_for("function fail is ready");
    let node = project.dev_file()["node"].clone();
    let (url, db_url) = (node["url"].as_str().unwrap(), node["db_url"].as_str().unwrap());
    let key = node["service_role_key"].as_str().unwrap();
    let (mut other, other_url) = serve(&project, db_url, &[]);
    let at = |base: &str, name: &str| format!("{base}/functions/v1/{name}");
    let (here, there) = (at(url, "pay"), at(&other_url, "pay"));

    let asked: Vec<_> = (0..8)
        .map(|n| (if n % 2 == 0 { &*here } else { &*there }, key, "k", "{\"a\":1}"))
        .collect();
    let answers = at_once(&asked);
    assert_eq!(answers[0].0, 201, "{answers:?}");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(at_once(&[(&there, key, "k", "{\"a\":2}")])[0].0, 422);

    other.signal(Signal::SIGKILL);
    other.ended();
    let (third, third_url) = serve(&project, db_url, &[]);
    let third_pay = at(&third_url, "pay");
    assert_eq!(at_once(&[(&third_pay, key, "k", "{\"a\":1}")])[0], answers[0]);
    assert_ne!(
        at_once(&[(&third_pay, key, "k-2", "{\"a\":1}")])[0].1,
        answers[0].1
    );

    let fail = at(url, "fail");
    let failed = at_once(&[(&fail, key, "k", "{}")]);
    let again = at_once(&[(&fail, key, "k", "{}")]);
    assert_eq!((failed[0].0, again[0].0), (500, 500));
    assert_ne!(failed[0].1, again[0].1, "it was called again");
    third.stop();
    dev.stop();
}

#[test]
fn schemas_refuse_bodies_and_bad_ones_refuse_the_start() {
    let project = Project::new()
        .function("crm", "Response.json(body)")
        .file("schemas/create.json", "{ \"required\": [\"title\"], }")
        .file("schemas/crm.json", "{ \"properties\": { \"action\": { \"type\": \"txt\" } } }")
        .file(
            "tramline.toml",
            "[functions.crm.schema]\nfile = \"schemas/crm.json\"\nactions = { create = \"schemas/create.json\", gone = \"schemas/gone.json\" }\n",
        );
    let said = project.say(&["dev", "--port", "0", "--db-port", "0"]).ended(2);
    for wanted in [
        "tramline.toml:1: functions.crm.schema: schemas/crm.json: at /properties/action/type: ",
        "functions.crm.schema: schemas/create.json:1:",
        "functions.crm.schema: schemas/gone.json: No such file",
    ] {
        assert!(said.err.contains(wanted), "{wanted}: {}", said.err);
    }

    project.write(
        "schemas/crm.json",
        "{ \"properties\": { \"action\": { \"enum\": [\"create\", \"list\"] }, \"n\": { \"minimum\": 0, \"multipleOf\": 1 } } }",
    );
    project.write("schemas/create.json", "{ \"required\": [\"title\"] }");
    project.write("schemas/gone.json", "true");
    let mut dev = project.dev();
    dev.wait_for("function crm is ready");
    let node = project.dev_file()["node"].clone();
    let url = format!("{}/functions/v1/crm", node["url"].as_str().unwrap());
    let key = node["service_role_key"].as_str();
    let send = |body: &str| request(&url, key, body);
    assert_eq!(send("{\"action\":\"list\"}").0, 200);
    assert_eq!(send("{\"action\":\"other\"}").0, 422);
    // numbers beyond all machine numbers are answered like others
    assert_eq!(send("{\"action\":\"list\",\"n\":1}").0, 200);
    assert_eq!(send("{\"action\":\"list\",\"n\":-1e400}").0, 422);
    let (status, body) = send("{\"action\":\"create\",\"payload\":{}}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["code"]), (422, &"INVALID_INPUT".into()), "{body}");
    assert_eq!(body["details"]["problems"][0]["path"], "payload", "{body}");

    // an edit of a schema is live
    project.write("schemas/create.json", "true");
    eventually("the edited schema", || {
        (send("{\"action\":\"create\",\"payload\":{}}").0 == 200).then_some(())
    });
    dev.stop();
}
