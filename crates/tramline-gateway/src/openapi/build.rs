//! Puts the document together from the described routes.

use std::collections::BTreeSet;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::operation::{Callers, Operation, Param, Tag};
use crate::api;
use crate::error::{Code, ErrorBody, Surface};
use crate::management;

const ABOUT: &str = "Runs, workflows, schedules, queues and functions of a tramline node (`/api/v1`), and the management API that \
     deploys to it (`/v1`), which the command line of Supabase speaks too.\n\nEvery failure is `{code, message, details?, request_id}`; \
     codes are stable, messages are not. Unknown fields and query parameters of `/api/v1` are refused by name; null means absent.";

/// The whole document.
pub(super) fn build() -> Value {
    let mut builder = Builder::new();
    for route in api::ROUTES {
        let place = (route.method, format!("{}{}", api::PREFIX, route.pattern));
        builder.add(place, route.callers(), &route.describe());
    }
    for route in management::ROUTES {
        let place = (route.method, format!("{}{}", management::PREFIX, route.pattern));
        builder.add(place, route.callers(), &route.describe());
    }
    builder.finish()
}

struct Builder {
    /// Of what is written: a field that may be null is always there.
    given: SchemaGenerator,
    /// Of what is read: a field that may be null may be left out.
    taken: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Builder {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            given: settings().for_serialize().into_generator(),
            taken: settings().for_deserialize().into_generator(),
            paths: Map::new(),
        }
    }

    fn add(&mut self, (method, pattern): (&str, String), callers: Callers, operation: &Operation) {
        let path = with_names(&pattern, &operation.path);
        let codes = operation.codes(callers);
        debug_assert!(
            codes.iter().all(|code| code.surface() == Surface::Api),
            "{}",
            operation.id
        );
        let mut described = json!({
            "operationId": operation.id,
            "tags": [operation.tag.name()],
            "summary": operation.summary,
            "description": description(operation, callers),
            "security": callers.security(),
            "responses": self.responses(operation, &codes),
            "x-callers": callers.words(),
            "x-codes": codes.iter().map(|code| code.as_str()).collect::<Vec<_>>(),
        });
        let parameters: Vec<Value> = operation
            .path
            .iter()
            .map(|param| parameter(param, "path"))
            .chain(operation.query.iter().map(|param| parameter(param, "query")))
            .collect();
        if !parameters.is_empty() {
            described["parameters"] = json!(parameters);
        }
        if let Some(body) = &operation.body {
            let mut content = json!({ "schema": (body.schema)(&mut self.taken) });
            if let Some(example) = &body.example {
                content["example"] = example.clone();
            }
            described["requestBody"] =
                json!({ "required": body.required, "content": { (body.content_type): content } });
        }
        let item = self.paths.entry(path).or_insert_with(|| json!({}));
        item[method.to_ascii_lowercase()] = described;
    }

    fn responses(&mut self, operation: &Operation, codes: &[Code]) -> Value {
        let mut responses = Map::new();
        for answer in &operation.answers {
            let mut response = json!({ "description": answer.about });
            for (kind, schema) in &answer.content {
                let schema = schema(&mut self.given);
                response["content"][*kind] = json!({ "schema": schema });
            }
            responses.insert(answer.status.to_string(), response);
        }
        for code in codes {
            let status = code.status().as_u16();
            let reference = json!({ "$ref": format!("#/components/responses/{}", response_name(status)) });
            responses.insert(status.to_string(), reference);
        }
        Value::Object(responses)
    }

    fn finish(mut self) -> Value {
        let error = self.given.subschema_for::<ErrorBody>();
        let mut schemas = self.taken.take_definitions(true);
        for (name, schema) in self.given.take_definitions(true) {
            let same = schemas
                .insert(name.clone(), schema.clone())
                .is_none_or(|other| other == schema);
            debug_assert!(
                same,
                "{name} is read and written differently: make two types of it"
            );
        }
        let mut responses = Map::new();
        let codes = || {
            Code::ALL
                .iter()
                .copied()
                .filter(|code| code.surface() == Surface::Api)
        };
        for status in codes()
            .map(|code| code.status().as_u16())
            .collect::<BTreeSet<_>>()
        {
            let codes: Vec<Code> = codes().filter(|code| code.status().as_u16() == status).collect();
            responses.insert(response_name(status), failure(&codes, &error));
        }
        let tags: Vec<Value> = Tag::ALL
            .iter()
            .map(|(_, name, about)| json!({ "name": name, "description": about }))
            .collect();
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "tramline",
                "version": env!("CARGO_PKG_VERSION"),
                "description": ABOUT,
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            "servers": [{ "url": "/", "description": "The node that serves this document" }],
            "tags": tags,
            "paths": self.paths,
            "components": {
                "schemas": schemas,
                "responses": responses,
                "securitySchemes": {
                    "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                               "description": "A token of the project or of a configured issuer, or an `sb_…` key" },
                    "apikey": { "type": "apiKey", "in": "header", "name": "apikey", "description": "The same as a header of its own" },
                    "accessToken": { "type": "http", "scheme": "bearer", "description": "`sbp_…`, made by `tramline token create`" },
                },
            },
        })
    }
}

fn response_name(status: u16) -> String {
    format!("Error{status}")
}

/// The answer of all failures with one status.
fn failure(codes: &[Code], error: &schemars::Schema) -> Value {
    let lines: Vec<String> = codes
        .iter()
        .map(|code| format!("- `{}`: {}; {}.", code.as_str(), code.cause(), code.action()))
        .collect();
    let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let told: Vec<Value> = codes
        .iter()
        .map(|code| json!({ "code": code.as_str(), "cause": code.cause(), "action": code.action() }))
        .collect();
    let mut response = json!({
        "description": lines.join("\n"),
        "content": { "application/json": { "schema": {
            "allOf": [error, { "type": "object", "properties": { "code": { "enum": words } } }],
        } } },
        "x-codes": told,
    });
    if codes
        .iter()
        .any(|code| matches!(code, Code::TooManyRequests | Code::Unavailable))
    {
        response["headers"]["Retry-After"] =
            json!({ "description": "Seconds", "schema": { "type": "integer" } });
    }
    if codes.contains(&Code::MethodNotAllowed) {
        response["headers"]["Allow"] =
            json!({ "description": "The methods of the path", "schema": { "type": "string" } });
    }
    response
}

fn description(operation: &Operation, callers: Callers) -> String {
    let callers = format!("Who may call: {}.", callers.words());
    if operation.about.is_empty() {
        callers
    } else {
        format!("{}\n\n{callers}", operation.about)
    }
}

fn parameter(param: &Param, place: &str) -> Value {
    let mut parameter = json!({
        "name": param.name, "in": place, "description": param.about, "required": place == "path" || param.required,
        "schema": param.schema,
    });
    if let Some(example) = &param.example {
        parameter["example"] = example.clone();
    }
    parameter
}

/// The pattern with its places named.
fn with_names(pattern: &str, names: &[Param]) -> String {
    let mut names = names.iter();
    let segments = pattern
        .split('/')
        .map(|segment| match (segment, segment == "{}") {
            (_, true) => names
                .next()
                .map_or_else(|| "{}".to_owned(), |param| format!("{{{}}}", param.name)),
            (plain, false) => plain.to_owned(),
        });
    let path = segments.collect::<Vec<_>>().join("/");
    debug_assert!(
        !path.contains("{}") && names.next().is_none(),
        "names of {pattern}"
    );
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_apis_is_documented_once_and_answered_by_an_operation() {
        let document = build();
        let codes = |value: &Value| -> Vec<String> {
            let list = value.as_array().unwrap().iter();
            list.map(|code| code.as_str().or(code["code"].as_str()).unwrap().to_owned())
                .collect()
        };
        let responses = document["components"]["responses"].as_object().unwrap();
        let documented: Vec<String> = responses
            .values()
            .flat_map(|one| codes(&one["x-codes"]))
            .collect();
        let answered: BTreeSet<String> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|item| item.as_object().unwrap().values())
            .flat_map(|operation| codes(&operation["x-codes"]))
            .collect();
        for code in Code::ALL.iter().filter(|code| code.surface() == Surface::Api) {
            let times = documented.iter().filter(|known| *known == code.as_str()).count();
            assert_eq!(times, 1, "{code:?}");
            // no operation has another method than its own
            let is_answered = answered.contains(code.as_str()) || *code == Code::MethodNotAllowed;
            assert!(is_answered, "{code:?}");
        }
    }
}
