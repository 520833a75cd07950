//! Bodies and answers are as the OpenAPI document says.

use serde_json::{Value, json};
use tramline_gateway::{ROUTES, openapi_document};

use crate::api::{body_for, call, name_for, path_of};
use crate::openapi::{answer_schema, operations, problems};
use crate::support::*;

/// Bodies whose fields are read behind the control.
const READ_ELSEWHERE: [&str; 7] = [
    "publishWorkflow",
    "validateWorkflow",
    "putSchedule",
    "putCalendar",
    "createQueue",
    "setQueue",
    "getStatus",
];

/// A value of no type that a property may have; none when it may have any.
fn wrong_for(schema: &Value) -> Option<Value> {
    let candidates = [
        json!(true),
        json!(7),
        json!("x"),
        json!([1]),
        json!({ "x": 1 }),
        json!(-1.5),
    ];
    candidates
        .into_iter()
        .find(|value| !problems(schema, value).is_empty())
}

fn object_schema(schema: &Value) -> Value {
    let mut schema = schema.clone();
    while let Some(reference) = schema["$ref"].as_str() {
        schema = openapi_document()
            .pointer(reference.trim_start_matches('#'))
            .unwrap()
            .clone();
    }
    match schema["oneOf"].get(0).or(schema["anyOf"].get(0)) {
        Some(one) => object_schema(one),
        None => schema,
    }
}

#[tokio::test]
async fn every_documented_field_is_read_and_every_other_is_refused() {
    let gate = gate(|_| {}).await;
    let mut count = 0;
    for (method, path, operation) in operations() {
        let id = operation["operationId"].as_str().unwrap();
        let content = &operation["requestBody"]["content"]["application/json"];
        if !path.starts_with("/api/v1") || content.is_null() || READ_ELSEWHERE.contains(&id) {
            continue;
        }
        let place = path
            .replace("{run_id}", &OWN_RUN.to_string())
            .replace("{queue}", "mail")
            .replace("{name}", "some-name");
        let send = async |body: &Value| gate.service(&method.to_uppercase(), &place, body).await;
        let schema = object_schema(&content["schema"]);
        let good = &content["example"];
        assert!(send(good).await.status.is_success(), "{id}");
        for (field, property) in schema["properties"].as_object().unwrap() {
            let Some(wrong) = wrong_for(property) else {
                continue;
            };
            count += 1;
            let mut body = good.clone();
            body[field] = wrong;
            let reply = send(&body).await;
            assert_eq!(
                (reply.status.as_u16(), reply.code().as_str()),
                (400, "INVALID_REQUEST"),
                "{id}: {body}"
            );
            let told = reply.json()["details"]["problems"].to_string();
            assert!(told.contains(field.as_str()), "{id} {field}: {told}");
        }
        let mut body = good.clone();
        body["unheard_of"] = json!(1);
        assert_eq!(send(&body).await.code(), "INVALID_REQUEST", "{id}");
        assert_ne!(
            problems(&content["schema"], &body),
            Vec::<String>::new(),
            "{id}: the schema says so too"
        );
        for field in schema["required"].as_array().into_iter().flatten() {
            let mut body = good.clone();
            body.as_object_mut().unwrap().remove(field.as_str().unwrap());
            assert_eq!(
                send(&body).await.code(),
                "INVALID_REQUEST",
                "{id} without {field}"
            );
        }
    }
    assert!(count > 40, "{count}");
}

/// Answers that the scripted control abbreviates; the real ones are compared by the tests of the program.
const ABBREVIATED: [&str; 4] = [
    "/runs/bulk",
    "/dead-letters",
    "/dead-letters/{}",
    "/dead-letters/redrive",
];

#[tokio::test]
async fn answers_are_as_they_are_documented() {
    let gate = gate(|_| {}).await;
    let bearer = format!("Bearer {}", role_token("service_role"));
    for route in ROUTES
        .iter()
        .filter(|route| !ABBREVIATED.contains(&route.pattern))
    {
        let (_, _, operation) = operations()
            .into_iter()
            .find(|(method, path, _)| {
                let mut segments = path
                    .trim_start_matches("/api/v1")
                    .split('/')
                    .zip(route.pattern.split('/'));
                method.to_uppercase() == route.method
                    && path.split('/').count() == route.pattern.split('/').count() + 2
                    && segments.all(|(a, b)| a == b || (a.starts_with('{') && b == "{}"))
            })
            .unwrap_or_else(|| panic!("{} is not documented", route.pattern));
        let place = path_of(route, &name_for(route));
        for (who, headers) in [
            ("service", vec![("authorization", bearer.as_str())]),
            ("nobody", vec![]),
        ] {
            let reply = call(&gate, route, &name_for(route), &headers).await;
            let Some(schema) = answer_schema(operation, reply.status.as_u16()) else {
                continue;
            };
            assert_eq!(
                problems(&schema, &reply.json()),
                Vec::<String>::new(),
                "{} {place} as {who}",
                route.method
            );
        }
        if body_for(route) != Value::Null {
            let reply = gate
                .call(
                    route.method,
                    &place,
                    &[("apikey", SECRET_KEY), ("content-type", "application/json")],
                    "{",
                )
                .await;
            let schema = answer_schema(operation, reply.status.as_u16()).unwrap();
            assert_eq!(
                (reply.status.as_u16(), problems(&schema, &reply.json())),
                (400, vec![]),
                "{place}"
            );
        }
    }
}
