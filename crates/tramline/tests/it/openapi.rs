//! The OpenAPI document against a real node: what it answers is what it says that it answers.

mod runs;
mod settings;

use serde_json::{Value, json};

use crate::support::{Dev, Project, say};

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
    runs::start_and_change(&node);
    runs::the_trace_of_a_request_goes_on_to_the_functions(&node);
    runs::dead_letters(&node);
    runs::workers(&node);
    settings::workflows(&node);
    settings::schedules(&node);
    settings::queues(&node);
    settings::functions_and_the_node(&node);
    settings::deployment(&node);
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
