//! The OpenAPI document: that it is one, that it says what the routes do, and that everything in it is true.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use tramline_gateway::{ROUTES, Right, openapi_document};

use crate::shelf::{REF, shelf};
use crate::support::*;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// Every operation: method, path, description.
pub fn operations() -> Vec<(&'static str, &'static str, &'static Value)> {
    let mut all = Vec::new();
    for (path, item) in openapi_document()["paths"].as_object().unwrap() {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                all.push((method, path.as_str(), operation));
            }
        }
        assert!(
            item.as_object()
                .unwrap()
                .keys()
                .all(|key| METHODS.contains(&key.as_str()))
        );
    }
    all
}

/// The problems of a value with a schema of the document.
pub fn problems(schema: &Value, value: &Value) -> Vec<String> {
    let whole = json!({ "allOf": [schema], "components": openapi_document()["components"] });
    let compiled = jsonschema::options()
        .offline()
        .should_validate_formats(true)
        .build(&whole)
        .unwrap_or_else(|error| panic!("{schema}: {error}"));
    compiled
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// What the document says about an answer; none when it has no body.
pub fn answer_schema(operation: &Value, status: u16) -> Option<Value> {
    let mut answer = &operation["responses"][status.to_string()];
    assert!(
        !answer.is_null(),
        "status {status} is not documented: {operation}"
    );
    if let Some(reference) = answer["$ref"].as_str() {
        answer = openapi_document()
            .pointer(reference.trim_start_matches('#'))
            .unwrap();
    }
    answer.pointer("/content/application~1json/schema").cloned()
}

pub fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found.push(reference.clone());
            }
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_is_served_to_anybody_and_may_be_kept() {
    let gate = gate(|_| {}).await;
    let reply = gate
        .get("/api/v1/openapi.json", &[("origin", "https://tools.example")])
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(reply.json(), *openapi_document());
    assert_eq!(reply.json()["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(reply.header("cache-control"), Some("public, max-age=300"));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    let tag = reply.header("etag").unwrap().to_owned();
    for known in [
        tag.clone(),
        format!("W/{tag}"),
        format!("\"other\", {tag}"),
        "*".into(),
    ] {
        let again = gate
            .get("/api/v1/openapi.json", &[("if-none-match", &known)])
            .await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{known}");
        assert_eq!(again.header("etag"), Some(tag.as_str()));
    }
    let other = gate
        .get("/api/v1/openapi.json", &[("if-none-match", "\"other\"")])
        .await;
    assert_eq!(other.status, 200);
    // a credential that is no good is not asked for either
    let bad = gate
        .get("/api/v1/openapi.json", &[("authorization", "Bearer x")])
        .await;
    assert_eq!(bad.status, 200);
    let wrong = gate
        .call("POST", "/api/v1/openapi.json", &[("apikey", SECRET_KEY)], "")
        .await;
    assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, Some("GET")));
}

#[tokio::test]
async fn the_page_is_whole_in_itself_and_names_every_operation() {
    let gate = gate(|_| {}).await;
    let reply = gate.get("/api/v1/docs", &[]).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = reply.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    let page = String::from_utf8(reply.body.to_vec()).unwrap();
    for foreign in ["<script", "http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    for (_, path, operation) in operations() {
        let id = operation["operationId"].as_str().unwrap();
        assert!(
            page.contains(&format!("id=\"{id}\"")) && page.contains(&format!("href=\"#{id}\"")),
            "{id}"
        );
        assert!(page.contains(&format!("<code>{path}</code>")), "{path}");
    }
    // links within lead somewhere
    for link in page.split("href=\"#").skip(1) {
        let target = link.split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{target}\"")), "#{target}");
    }
    let tag = reply.header("etag").unwrap().to_owned();
    let again = gate.get("/api/v1/docs", &[("if-none-match", &tag)]).await;
    assert_eq!(again.status, 304);
}

#[test]
fn every_reference_leads_somewhere_and_every_id_is_one_of_its_kind() {
    let document = openapi_document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut found = Vec::new();
    references(document, &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for reference in &found {
        assert!(
            document.pointer(reference.trim_start_matches('#')).is_some(),
            "{reference}"
        );
    }
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    let tags: BTreeSet<&str> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations() {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{id} twice");
        assert!(tags.contains(operation["tags"][0].as_str().unwrap()), "{id}");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{id}");
        for requirement in operation["security"].as_array().unwrap() {
            assert!(
                requirement
                    .as_object()
                    .unwrap()
                    .keys()
                    .all(|name| schemes.contains_key(name)),
                "{id}"
            );
        }
        // each place in the path is described once
        let named: Vec<&str> = path
            .split('/')
            .filter(|s| s.starts_with('{'))
            .map(|s| s.trim_matches(['{', '}']))
            .collect();
        let described: Vec<&str> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(named, described, "{method} {path}");
        assert!(!operation["responses"].as_object().unwrap().is_empty(), "{id}");
    }
}

#[test]
fn the_document_has_the_routes_and_no_others() {
    let shape = |path: &str| {
        let segments = path.split('/').map(|s| if s.starts_with('{') { "{}" } else { s });
        segments.collect::<Vec<_>>().join("/")
    };
    let documented: BTreeSet<(String, String)> = operations()
        .into_iter()
        .filter(|(_, path, _)| path.starts_with("/api/v1"))
        .map(|(method, path, _)| (method.to_uppercase(), shape(path)))
        .collect();
    let routes: BTreeSet<(String, String)> = ROUTES
        .iter()
        .map(|route| (route.method.to_owned(), format!("/api/v1{}", route.pattern)))
        .collect();
    assert_eq!(documented, routes);
    for route in ROUTES {
        let open = route.right == Right::Everybody;
        let (_, _, operation) = operations()
            .into_iter()
            .find(|(method, path, _)| {
                method.to_uppercase() == route.method && shape(path) == format!("/api/v1{}", route.pattern)
            })
            .unwrap();
        assert_eq!(operation["security"] == json!([]), open, "{}", route.pattern);
    }
}

#[tokio::test]
async fn the_management_routes_are_those_that_answer() {
    let (gate, _) = shelf().await;
    for (method, path, _) in operations()
        .into_iter()
        .filter(|(_, path, _)| path.starts_with("/v1"))
    {
        let path = path
            .replace("{ref}", REF)
            .replace("{slug}", "hello")
            .replace("{token}", "ci");
        let reply = gate.call(&method.to_uppercase(), &path, &[], "").await;
        assert_eq!(reply.status, 401, "{method} {path}");
        let reply = gate.service(&method.to_uppercase(), &path, &Value::Null).await;
        assert_ne!(reply.status, 405, "{method} {path}");
        if reply.status == 404 {
            assert!(reply.json()["message"] != "No such path", "{method} {path}");
        }
    }
    // and the other way round: a path of the document has no further methods
    let paths: BTreeSet<&str> = operations()
        .into_iter()
        .map(|(_, path, _)| path)
        .filter(|path| path.starts_with("/v1"))
        .collect();
    for path in paths {
        let known: BTreeSet<String> = operations()
            .into_iter()
            .filter(|(_, other, _)| *other == path)
            .map(|(method, ..)| method.to_uppercase())
            .collect();
        let path = path
            .replace("{ref}", REF)
            .replace("{slug}", "hello")
            .replace("{token}", "ci");
        let reply = gate.service("TRACE", &path, &Value::Null).await;
        let told: BTreeSet<String> = reply
            .header("allow")
            .unwrap()
            .split(", ")
            .map(str::to_owned)
            .collect();
        // a function may be called `deploy`
        let is_both = path.ends_with("/functions/deploy") && known.is_subset(&told);
        assert!(is_both || told == known, "{path}: {told:?}");
    }
}

#[test]
fn examples_are_what_their_schemas_allow() {
    let mut count = 0;
    for (method, path, operation) in operations() {
        for content in operation["requestBody"]["content"]
            .as_object()
            .into_iter()
            .flat_map(Map::values)
        {
            let Some(example) = content.get("example") else {
                continue;
            };
            count += 1;
            assert_eq!(
                problems(&content["schema"], example),
                Vec::<String>::new(),
                "{method} {path}"
            );
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if let Some(example) = parameter.get("example") {
                assert_eq!(
                    problems(&parameter["schema"], example),
                    Vec::<String>::new(),
                    "{method} {path}"
                );
            }
        }
    }
    assert!(count > 20, "{count}");
    for (name, schema) in openapi_document()["components"]["schemas"].as_object().unwrap() {
        // compiles, and its own examples fit
        for example in schema["examples"].as_array().into_iter().flatten() {
            assert_eq!(problems(schema, example), Vec::<String>::new(), "{name}");
        }
        let _ = problems(schema, &Value::Null);
    }
}
