//! The OpenAPI document against a real node: what it answers is what it says that it answers.

use serde_json::{Value, json};

use crate::support::{Dev, Project, eventually, say};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A running node with its document.
struct Node {
    project: Project,
    url: String,
    key: String,
    document: Value,
}

impl Node {
    fn start() -> (Self, Dev) {
        let project = Project::new()
            .function(
                "echo",
                "Response.json({ given: body, trace: request.headers.get('traceparent') })",
            )
            .function("never", "Response.json({ error: { message: 'no' } }, { status: 503 })")
            .file(
                "tramline.toml",
                "[functions.never.retry]\nmax_attempts = 2\ninitial = \"10ms\"\n\n[functions.page]\nauth = \"public\"\nsigned_links = true\nreason = \"a page\"\n",
            )
            .function("page", "new Response('hello')");
        let mut dev = project.dev();
        for name in ["echo", "never", "page"] {
            dev.wait_for(&format!("function {name} is ready"));
        }
        let node = project.dev_file()["node"].clone();
        let text = |name: &str| node[name].as_str().unwrap().to_owned();
        let document = project.say(&["openapi"]).ended(0).json();
        let node = Self {
            url: text("url"),
            key: text("service_role_key"),
            document,
            project,
        };
        (node, dev)
    }

    fn send(&self, method: &str, path: &str, body: &Value, headers: &[(&str, &str)]) -> (u16, String) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let mut request = reqwest::Client::new()
                .request(method, format!("{}{path}", self.url))
                .bearer_auth(&self.key);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if !body.is_null() {
                request = request.json(body);
            }
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        })
    }

    /// Sends a request for a documented operation and checks the answer against what is documented.
    #[track_caller]
    fn call(
        &self,
        method: &str,
        template: &str,
        place: &[(&str, &str)],
        query: &str,
        body: Value,
    ) -> (u16, Value) {
        let mut path = template.to_owned();
        for (name, value) in place {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        let (status, text) = self.send(method, &format!("{path}{query}"), &body, &[]);
        let value = serde_json::from_str(&text).unwrap_or(Value::Null);
        self.conforms(method, template, status, &value);
        (status, value)
    }

    #[track_caller]
    fn conforms(&self, method: &str, template: &str, status: u16, value: &Value) {
        let operation = &self.document["paths"][template][method.to_lowercase()];
        assert!(!operation.is_null(), "{method} {template} is not documented");
        let mut answer = &operation["responses"][status.to_string()];
        assert!(
            !answer.is_null(),
            "{method} {template}: {status} is not documented: {value}"
        );
        if let Some(reference) = answer["$ref"].as_str() {
            answer = self.document.pointer(reference.trim_start_matches('#')).unwrap();
        }
        let Some(schema) = answer.pointer("/content/application~1json/schema") else {
            return;
        };
        let whole = json!({ "allOf": [schema], "components": self.document["components"] });
        let compiled = jsonschema::options()
            .offline()
            .should_validate_formats(true)
            .build(&whole)
            .unwrap();
        let problems: Vec<String> = compiled
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(
            problems.is_empty(),
            "{method} {template} {status}: {problems:?} in {value}"
        );
    }

    /// An answer below `/api/v1` that is expected to have this status.
    #[track_caller]
    fn api(&self, wanted: u16, method: &str, template: &str, name: &str, query: &str, body: Value) -> Value {
        let place = [("run_id", name), ("queue", name), ("name", name)];
        let (status, value) = self.call(method, &format!("/api/v1{template}"), &place, query, body);
        assert_eq!(status, wanted, "{method} {template}: {value}");
        value
    }
}

#[test]
fn a_node_answers_as_its_document_says() {
    let (node, dev) = Node::start();
    the_document_is_the_one_that_is_served(&node);
    runs(&node);
    the_trace_of_a_request_goes_on_to_the_functions(&node);
    dead_letters(&node);
    workers(&node);
    workflows(&node);
    schedules(&node);
    queues(&node);
    functions_and_the_node(&node);
    deployment(&node);
    dev.stop();
}

fn the_document_is_the_one_that_is_served(node: &Node) {
    let (status, text) = node.send("GET", "/api/v1/openapi.json", &Value::Null, &[]);
    assert_eq!(
        (status, serde_json::from_str(&text).ok()),
        (200, Some(node.document.clone()))
    );
    assert_eq!(node.document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let dir = node.project.path();
    say(dir, &["openapi", "--output", "api.json"]).ended(0);
    let written = std::fs::read_to_string(dir.join("api.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), node.document);
    let refused = say(dir, &["openapi", "--output", "no/such/folder/api.json"]).ended(1);
    assert!(
        refused.err.contains("failed to write no/such/folder/api.json"),
        "{refused:?}"
    );
}

fn runs(node: &Node) {
    let body = json!({ "target": "echo", "input": { "a": 1 }, "correlation_id": "one" });
    let started = node.api(201, "POST", "/runs", "", "", body.clone());
    let id = started["run_id"].as_str().unwrap();
    node.api(200, "POST", "/runs", "", "", body);
    let waited =
        json!({ "target": "echo", "metadata": { "tenant": "acme" }, "priority": 1, "queue": "default" });
    node.api(200, "POST", "/runs", "", "?wait=30", waited);
    node.api(
        202,
        "POST",
        "/runs",
        "",
        "?wait=1",
        json!({ "target": "echo", "delay": "1h" }),
    );
    node.api(
        201,
        "POST",
        "/runs",
        "",
        "",
        json!([{ "target": "echo" }, { "target": "echo", "delay": 3600 }]),
    );
    node.api(
        207,
        "POST",
        "/runs",
        "",
        "",
        json!([{ "target": "echo" }, { "target": "nobody" }]),
    );
    node.api(404, "POST", "/runs", "", "", json!({ "target": "nobody" }));
    node.api(
        409,
        "POST",
        "/runs",
        "",
        "",
        json!({ "target": "echo", "correlation_id": "one", "input": 2 }),
    );
    node.api(
        400,
        "POST",
        "/runs",
        "",
        "",
        json!({ "target": "echo", "priorty": 2 }),
    );
    node.api(400, "POST", "/runs", "", "", Value::Null);
    for query in ["", "?status=completed&limit=1", "?target=echo"] {
        node.api(200, "GET", "/runs", "", query, Value::Null);
    }
    node.api(400, "GET", "/runs", "", "?limit=0", Value::Null);
    for path in [
        "/runs/{run_id}",
        "/runs/{run_id}/steps",
        "/runs/{run_id}/events",
        "/runs/{run_id}/why",
        "/runs/{run_id}/artifacts",
    ] {
        node.api(200, "GET", path, id, "", Value::Null);
        node.api(
            404,
            "GET",
            path,
            "0190163d-8694-739b-aea5-966c26f8ad91",
            "",
            Value::Null,
        );
        node.api(404, "GET", path, "nothing", "", Value::Null);
    }
    let later = node.api(
        201,
        "POST",
        "/runs",
        "",
        "",
        json!({ "target": "echo", "delay": "1h" }),
    );
    let later = later["run_id"].as_str().unwrap();
    node.api(
        200,
        "POST",
        "/runs/{run_id}/pause",
        later,
        "",
        json!({ "reason": "lunch" }),
    );
    node.api(200, "POST", "/runs/{run_id}/resume", later, "", Value::Null);
    node.api(200, "POST", "/runs/{run_id}/cancel", later, "", Value::Null);
    node.api(409, "POST", "/runs/{run_id}/cancel", later, "", Value::Null);
    node.api(200, "POST", "/runs/{run_id}/retry", later, "", Value::Null);
    let all = json!({ "verb": "cancel", "filter": { "target": "echo" }, "dry_run": true });
    assert_eq!(node.api(200, "POST", "/runs/bulk", "", "", all)["dry_run"], true);
    node.api(
        200,
        "POST",
        "/runs/bulk",
        "",
        "",
        json!({ "verb": "cancel", "filter": { "target": "echo" }, "dry_run": false }),
    );
    node.api(
        422,
        "POST",
        "/runs/bulk",
        "",
        "",
        json!({ "verb": "cancel", "filter": {} }),
    );
}

fn the_trace_of_a_request_goes_on_to_the_functions(node: &Node) {
    let start = |metadata: Value| {
        let body = json!({ "target": "echo", "metadata": metadata });
        let (status, text) = node.send("POST", "/api/v1/runs?wait=30", &body, &[("traceparent", TRACE)]);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let run = start(json!({ "tenant": "acme" }));
    assert_eq!(run["metadata"], json!({ "tenant": "acme", "traceparent": TRACE }));
    let given = run["output"]["trace"].as_str().unwrap();
    assert_eq!(
        (&given[..36], &given[52..]),
        (&TRACE[..36], "-01"),
        "the same trace, with its flags"
    );
    assert_ne!(&given[36..52], &TRACE[36..52], "and a span of its own");
    let id = run["run_id"].as_str().unwrap();
    let shown = node.project.say(&["run", "show", id, "--json"]).ended(0).json();
    assert_eq!(shown["run"]["metadata"]["traceparent"], TRACE);
    let own = "00-11111111111111111111111111111111-2222222222222222-00";
    let run = start(json!({ "traceparent": own }));
    assert_eq!(
        run["metadata"]["traceparent"], own,
        "what the caller said itself stands"
    );
    // without one there is none
    let plain = node.api(200, "POST", "/runs", "", "?wait=30", json!({ "target": "echo" }));
    assert_eq!(
        (&plain["metadata"], &plain["output"]["trace"]),
        (&json!({}), &Value::Null)
    );
}

fn dead_letters(node: &Node) {
    let run = node.api(
        200,
        "POST",
        "/runs",
        "",
        "?wait=60",
        json!({ "target": "never", "input": { "n": 1 } }),
    );
    let id = run["run_id"].as_str().unwrap();
    for query in ["", "?target=never&limit=5", "?reason=attempts_exhausted&all=true"] {
        let letters = node.api(200, "GET", "/dead-letters", "", query, Value::Null);
        assert_eq!(letters.as_array().unwrap().len(), 1, "{query}");
    }
    let letters = node.api(200, "GET", "/dead-letters/{run_id}", id, "", Value::Null);
    assert_eq!(letters[0]["attempts"].as_array().unwrap().len(), 2);
    node.api(
        404,
        "GET",
        "/dead-letters/{run_id}",
        "0190163d-8694-739b-aea5-966c26f8ad91",
        "",
        Value::Null,
    );
    node.api(
        200,
        "POST",
        "/dead-letters/redrive",
        "",
        "",
        json!({ "filter": { "target": "never" } }),
    );
    node.api(
        200,
        "POST",
        "/dead-letters/{run_id}/redrive",
        id,
        "",
        json!({ "reason": "again" }),
    );
}

fn workers(node: &Node) {
    let started = node.api(
        201,
        "POST",
        "/runs",
        "",
        "",
        json!({ "target": "resize", "queue": "ops", "input": { "n": 7 } }),
    );
    let id = started["run_id"].as_str().unwrap();
    let claimed = node.api(
        200,
        "POST",
        "/queues/{queue}/claim",
        "ops",
        "?wait=10",
        json!({ "worker_id": "w", "lease": "5m" }),
    );
    let fence = claimed[0]["fence"].clone();
    assert_eq!(claimed[0]["run_id"], id);
    node.api(
        200,
        "POST",
        "/queues/{queue}/claim",
        "ops",
        "",
        json!({ "worker_id": "w", "count": 3 }),
    );
    node.api(
        404,
        "POST",
        "/queues/{queue}/claim",
        "nowhere",
        "",
        json!({ "worker_id": "w" }),
    );
    node.api(
        409,
        "POST",
        "/queues/{queue}/claim",
        "default",
        "",
        json!({ "worker_id": "w" }),
    );
    node.api(
        200,
        "POST",
        "/runs/{run_id}/heartbeat",
        id,
        "",
        json!({ "fence": fence }),
    );
    node.api(
        201,
        "POST",
        "/runs/{run_id}/events",
        id,
        "",
        json!({ "message": "half", "fence": fence }),
    );
    let artifact = json!({ "name": "a.pdf", "uri": "s3://b/a.pdf", "bytes": 3, "fence": fence });
    node.api(201, "POST", "/runs/{run_id}/artifacts", id, "", artifact);
    let artifacts = node.api(200, "GET", "/runs/{run_id}/artifacts", id, "", Value::Null);
    assert_eq!(artifacts[0]["name"], "a.pdf");
    let end = json!({ "status": "success", "output": 7, "fence": fence });
    node.api(200, "POST", "/runs/{run_id}/finish", id, "", end);
    node.api(
        409,
        "POST",
        "/runs/{run_id}/heartbeat",
        id,
        "",
        json!({ "worker_id": "w" }),
    );
    let events = node.api(200, "GET", "/runs/{run_id}/events", id, "", Value::Null);
    assert_eq!(events[0]["message"], "half");
}

fn workflows(node: &Node) {
    let definition = json!({ "name": "greet", "description": "d", "required_fields": ["who"],
                             "steps": [{ "name": "hello", "function": "echo", "action": "a" }] });
    node.api(200, "POST", "/workflows/validate", "", "", definition.clone());
    let wrong = json!({ "name": "greet", "steps": [{ "name": "hello", "function": "nobody" }] });
    assert_eq!(
        node.api(200, "POST", "/workflows/validate", "", "", wrong.clone())["valid"],
        false
    );
    node.api(201, "POST", "/workflows", "", "", definition.clone());
    node.api(200, "POST", "/workflows", "", "", definition);
    node.api(422, "POST", "/workflows", "", "", wrong);
    node.api(200, "GET", "/workflows", "", "", Value::Null);
    node.api(
        200,
        "GET",
        "/workflows/{name}",
        "greet",
        "?version=1",
        Value::Null,
    );
    node.api(
        404,
        "GET",
        "/workflows/{name}",
        "greet",
        "?version=9",
        Value::Null,
    );
    node.api(422, "POST", "/runs", "", "", json!({ "target": "greet" }));
    let run = node.api(
        200,
        "POST",
        "/runs",
        "",
        "?wait=30",
        json!({ "target": "greet", "input": { "who": "you" } }),
    );
    let id = run["run_id"].as_str().unwrap();
    let steps = node.api(200, "GET", "/runs/{run_id}/steps", id, "", Value::Null);
    assert_eq!(steps[0]["name"], "hello");
}

fn schedules(node: &Node) {
    let calendar = json!({ "exclude": ["12-25"], "timezone": "Europe/Berlin" });
    node.api(200, "PUT", "/calendars/{name}", "holidays", "", calendar);
    node.api(
        422,
        "PUT",
        "/calendars/{name}",
        "holidays",
        "",
        json!({ "exclude": ["soon"] }),
    );
    node.api(200, "GET", "/calendars", "", "", Value::Null);
    let schedule =
        json!({ "cron": "0 0 8 * * *", "target": "echo", "exclude": ["holidays"], "jitter": "5s" });
    node.api(200, "PUT", "/schedules/{name}", "daily", "", schedule);
    node.api(
        200,
        "PUT",
        "/schedules/{name}",
        "often",
        "",
        json!({ "every": "1h", "target": "echo" }),
    );
    node.api(
        422,
        "PUT",
        "/schedules/{name}",
        "daily",
        "",
        json!({ "cron": "never", "target": "echo" }),
    );
    node.api(409, "DELETE", "/calendars/{name}", "holidays", "", Value::Null);
    node.api(200, "GET", "/schedules", "", "", Value::Null);
    node.api(200, "GET", "/schedules/{name}", "daily", "", Value::Null);
    node.api(404, "GET", "/schedules/{name}", "nothing", "", Value::Null);
    let triggered = node.api(200, "POST", "/schedules/{name}/trigger", "daily", "", Value::Null);
    assert!(triggered["run_id"].is_string());
    node.api(
        422,
        "POST",
        "/schedules/{name}/trigger",
        "daily",
        "",
        json!({ "period": "2026-01-01T08:00:01Z" }),
    );
    let span = json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z", "dry_run": false });
    assert_eq!(
        node.api(200, "POST", "/schedules/{name}/backfill", "daily", "", span)["started"],
        2
    );
    eventually("the periods of the backfill", || {
        let periods = node.api(
            200,
            "GET",
            "/schedules/{name}/periods",
            "daily",
            "?limit=10",
            Value::Null,
        );
        let done = |period: &Value| period["finished_at"].is_string();
        (periods
            .as_array()
            .unwrap()
            .iter()
            .filter(|period| done(period))
            .count()
            == 2)
            .then_some(())
    });
    node.api(200, "POST", "/schedules/{name}/pause", "daily", "", Value::Null);
    node.api(200, "POST", "/schedules/{name}/resume", "daily", "", Value::Null);
    for name in ["daily", "often"] {
        node.api(200, "DELETE", "/schedules/{name}", name, "", Value::Null);
    }
    node.api(200, "DELETE", "/calendars/{name}", "holidays", "", Value::Null);
    node.api(404, "DELETE", "/calendars/{name}", "holidays", "", Value::Null);
}

fn queues(node: &Node) {
    let queue = json!({ "name": "mail", "concurrency": 5, "rate": { "count": 100, "per": "1m" }, "description": "letters" });
    node.api(201, "POST", "/queues", "", "", queue.clone());
    node.api(409, "POST", "/queues", "", "", queue);
    node.api(422, "POST", "/queues", "", "", json!({ "name": "mail 2" }));
    node.api(
        201,
        "POST",
        "/queues",
        "",
        "",
        json!({ "name": "pulled", "mode": "pull", "claims_max": 3 }),
    );
    node.api(
        200,
        "POST",
        "/queues/{queue}",
        "mail",
        "",
        json!({ "rate": null, "fifo": true }),
    );
    node.api(
        422,
        "POST",
        "/queues/{queue}",
        "mail",
        "",
        json!({ "colour": "red" }),
    );
    node.api(
        404,
        "POST",
        "/queues/{queue}",
        "nothing",
        "",
        json!({ "fifo": true }),
    );
    node.api(200, "POST", "/queues/{queue}/pause", "mail", "", Value::Null);
    node.api(200, "POST", "/queues/{queue}/resume", "mail", "", Value::Null);
    node.api(200, "GET", "/queues", "", "", Value::Null);
    node.api(200, "GET", "/queues/{queue}", "pulled", "", Value::Null);
    node.api(404, "GET", "/queues/{queue}", "nothing", "", Value::Null);
    node.api(200, "GET", "/queues/{queue}/why", "mail", "", Value::Null);
}

fn functions_and_the_node(node: &Node) {
    let functions = node.api(200, "GET", "/functions", "", "", Value::Null);
    assert_eq!(functions.as_array().unwrap().len(), 3);
    node.api(
        200,
        "GET",
        "/functions/{name}/logs",
        "echo",
        "?tail=5&level=info",
        Value::Null,
    );
    node.api(404, "GET", "/functions/{name}/logs", "nothing", "", Value::Null);
    let link = node.api(
        200,
        "POST",
        "/links",
        "",
        "",
        json!({ "function": "page", "query": "a=1", "expires_in": 60 }),
    );
    assert!(link["path"].as_str().unwrap().starts_with("/functions/v1/page?"));
    node.api(200, "GET", "/retention", "", "", Value::Null);
    node.api(200, "POST", "/retention", "", "", Value::Null);
    node.api(200, "GET", "/status", "", "", Value::Null);
}

fn deployment(node: &Node) {
    let (_, projects) = node.call("GET", "/v1/projects", &[], "", Value::Null);
    let project = projects[0]["ref"].as_str().unwrap();
    node.project.say(&["deploy", "echo"]).ended(0);
    let call = |wanted: u16, method: &str, rest: &str, name: &str, query: &str, body: Value| {
        let place = [("ref", project), ("slug", name), ("token", name)];
        let (status, value) = node.call(
            method,
            &format!("/v1/projects/{{ref}}{rest}"),
            &place,
            query,
            body,
        );
        assert_eq!(status, wanted, "{method} {rest}: {value}");
        value
    };
    call(200, "GET", "", "", "", Value::Null);
    let deployed = call(200, "GET", "/functions", "", "", Value::Null);
    assert_eq!(deployed[0]["slug"], "echo");
    call(200, "GET", "/functions/{slug}", "echo", "", Value::Null);
    call(404, "GET", "/functions/{slug}", "nothing", "", Value::Null);
    let versions = call(200, "GET", "/functions/{slug}/versions", "echo", "", Value::Null);
    let version = versions[0]["version"].clone();
    call(
        200,
        "PUT",
        "/functions",
        "",
        "",
        json!([{ "slug": "echo", "version": version }]),
    );
    call(400, "PUT", "/functions", "", "", json!([{ "slug": "echo" }]));
    call(406, "GET", "/functions/{slug}/body", "echo", "", Value::Null);
    call(415, "POST", "/functions", "", "", Value::Null);
    call(415, "POST", "/functions/deploy", "", "?slug=echo", json!({}));
    call(
        201,
        "POST",
        "/secrets",
        "",
        "",
        json!([{ "name": "MAIL_KEY", "value": "k" }]),
    );
    call(400, "POST", "/secrets", "", "", json!([{ "name": "MAIL_KEY" }]));
    call(200, "GET", "/secrets", "", "", Value::Null);
    call(200, "DELETE", "/secrets", "", "", json!(["MAIL_KEY"]));
    call(
        201,
        "POST",
        "/tokens",
        "",
        "",
        json!({ "name": "ci", "expires_in": 60 }),
    );
    call(200, "GET", "/tokens", "", "", Value::Null);
    call(200, "DELETE", "/tokens/{token}", "ci", "", Value::Null);
    call(404, "DELETE", "/tokens/{token}", "nothing", "", Value::Null);
    call(200, "DELETE", "/functions/{slug}", "echo", "", Value::Null);
}
