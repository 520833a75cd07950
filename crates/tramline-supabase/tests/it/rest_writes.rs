//! Writing through `/rest/v1`.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rest::*;

#[tokio::test]
async fn insert_upsert_update_delete() {
    let (_db, client) = library().await;
    let answer = client
        .send(Method::POST, "books", &[], Some(json!({ "title": "Four" })))
        .await;
    assert_eq!((answer.status, answer.body), (StatusCode::CREATED, Value::Null));
    let answer = client
        .send(
            Method::POST,
            "books?columns=%22title%22%2C%22author_id%22&select=id,title,tags",
            &["Prefer: return=representation"],
            Some(json!([{ "title": "Five", "author_id": 2 }, { "title": "Six", "author_id": 2 }])),
        )
        .await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    assert_eq!(
        answer.body,
        json!([{ "id": 101, "title": "Five", "tags": [] }, { "id": 102, "title": "Six", "tags": [] }])
    );
    let upsert = ["Prefer: resolution=merge-duplicates,return=representation"];
    let answer = client
        .send(
            Method::POST,
            "books?on_conflict=title&select=id,price",
            &upsert,
            Some(json!({ "title": "One", "price": 11 })),
        )
        .await;
    assert_eq!(
        (answer.status, answer.body),
        (StatusCode::OK, json!([{ "id": 1, "price": 11 }]))
    );
    let ignore = ["Prefer: resolution=ignore-duplicates,return=representation"];
    let answer = client
        .send(
            Method::POST,
            "books?on_conflict=title&select=id",
            &ignore,
            Some(json!({ "title": "One" })),
        )
        .await;
    assert_eq!(answer.body, json!([]));
    let answer = client
        .send(
            Method::PATCH,
            "books?id=eq.1",
            &[],
            Some(json!({ "price": 12.25 })),
        )
        .await;
    assert_eq!(
        (answer.status, answer.body),
        (StatusCode::NO_CONTENT, Value::Null)
    );
    let answer = client
        .send(
            Method::PATCH,
            "books?id=eq.1&select=price",
            &["Prefer: return=representation"],
            Some(json!({ "price": 13 })),
        )
        .await;
    assert_eq!(
        (answer.status, answer.body),
        (StatusCode::OK, json!([{ "price": 13 }]))
    );
    assert_eq!(
        client
            .send(Method::DELETE, "books?id=eq.2", &[], None)
            .await
            .status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(client.get("books?select=id&id=eq.2").await.body, json!([]));
}

#[tokio::test]
async fn blanks_in_the_form_encoding_of_clients_are_blanks() {
    let (db, client) = library().await;
    db.run(
        "insert into authors values (7, 'Ann Lee'), (8, 'a+b');
         create table odd (id int primary key, \"full name\" text)",
    )
    .await;
    client.rest.reload().await.unwrap();
    assert_eq!(
        client.get("authors?select=id&name=eq.Ann+Lee").await.body,
        json!([{ "id": 7 }])
    );
    assert_eq!(
        client.get("authors?select=id&name=eq.a%2Bb").await.body,
        json!([{ "id": 8 }])
    );
    let row = json!([{ "id": 1, "full name": "x" }]);
    let path = "odd?columns=%22id%22%2C%22full+name%22&select=id%2C%22full+name%22";
    let answer = client
        .send(
            Method::POST,
            path,
            &["Prefer: return=representation"],
            Some(row.clone()),
        )
        .await;
    assert_eq!((answer.status, answer.body), (StatusCode::CREATED, row));
}

#[tokio::test]
async fn written_rows_are_counted_when_asked() {
    let (_db, client) = library().await;
    let count = ["Prefer: count=exact"];
    let with_rows = ["Prefer: return=representation,count=exact"];
    let price = || Some(json!({ "price": 1 }));
    let range = |answer: &Answer| answer.headers["content-range"].to_str().unwrap().to_owned();
    let answer = client
        .send(Method::PATCH, "books?author_id=eq.1", &count, price())
        .await;
    assert_eq!(
        (answer.status, range(&answer).as_str()),
        (StatusCode::NO_CONTENT, "0-1/2")
    );
    let answer = client
        .send(
            Method::PATCH,
            "books?author_id=eq.99&select=id",
            &with_rows,
            price(),
        )
        .await;
    assert_eq!(range(&answer), "*/0");
    let answer = client
        .send(Method::PATCH, "books?author_id=eq.99", &count, price())
        .await;
    assert_eq!(range(&answer), "*/0");
    let new = json!([{ "title": "a" }, { "title": "b" }, { "title": "c" }]);
    let answer = client
        .send(Method::POST, "books?select=id", &with_rows, Some(new))
        .await;
    assert_eq!(
        (answer.status, range(&answer).as_str()),
        (StatusCode::CREATED, "*/3")
    );
    let answer = client
        .send(Method::DELETE, "books?title=in.(a,b)&select=id", &with_rows, None)
        .await;
    assert_eq!(range(&answer), "*/2");
}

#[tokio::test]
async fn functions_are_called_by_name() {
    let (_db, client) = library().await;
    let answer = client
        .send(Method::POST, "rpc/add", &[], Some(json!({ "a": 1, "b": 2 })))
        .await;
    assert_eq!((answer.status, answer.body), (StatusCode::OK, json!(3)));
    assert_eq!(client.get("rpc/add?a=3&b=4").await.body, json!(7));
    let answer = client
        .send(
            Method::POST,
            "rpc/books_of?select=title&order=title.desc",
            &[],
            Some(json!({ "p_author": 1 })),
        )
        .await;
    assert_eq!(answer.body, json!([{ "title": "Two" }, { "title": "One" }]));
    let answer = client.send(Method::POST, "rpc/touch", &[], Some(json!({}))).await;
    assert_eq!(
        (answer.status, answer.body),
        (StatusCode::NO_CONTENT, Value::Null)
    );
    let answer = client
        .send(Method::POST, "rpc/fail_custom", &[], Some(json!({})))
        .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        answer.body,
        json!({ "code": "P0001", "message": "no luck", "details": "because", "hint": "try again" })
    );
    let answer = client
        .send(Method::POST, "rpc/nothing", &[], Some(json!({ "a": 1 })))
        .await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (StatusCode::NOT_FOUND, &json!("PGRST202"))
    );
}

/// The gateway lets bodies of functions and of this surface be equally large; here they must fit as well.
#[tokio::test]
async fn a_body_as_large_as_the_gateway_lets_through_is_taken() {
    let (_db, client) = library().await;
    let room = tramline_core::limits::REQUEST_BODY_MAX_BYTES - 100;
    let body = json!({ "id": 7, "owner": ANN, "body": "x".repeat(room) });
    let written = client.send(Method::POST, "notes", &[], Some(body)).await;
    assert_eq!(written.status, StatusCode::CREATED, "{}", written.body);
    let notes = client.get("notes?id=eq.7&select=body").await;
    assert_eq!(notes.body[0]["body"].as_str().unwrap().len(), room);
}
