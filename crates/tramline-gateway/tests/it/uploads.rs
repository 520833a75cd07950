//! Uploads: what is taken, and that nothing is left behind when it is not.

use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tramline_core::deploy::VersionConfig;
use tramline_gateway::limits;

use crate::shelf::*;
use crate::support::*;

#[tokio::test]
async fn sources_are_stored_in_any_order_of_parts_and_come_back() {
    let (gate, shelf) = shelf().await;
    let stored = upload(&gate, "slug=hello&bundleOnly=true", hello("Deno.serve()")).await;
    assert_eq!(
        (stored.status, &stored.json()["version"]),
        (StatusCode::CREATED, &json!(1))
    );
    assert_eq!(
        as_token(&gate, "GET", "/functions", "").await.json(),
        json!([]),
        "not active yet"
    );
    assert_eq!(shelf.actors.lock().unwrap()[0], "token:ci");
    let new = shelf.stored.lock().unwrap()[0].clone();
    assert_eq!(
        new.config,
        VersionConfig {
            entrypoint_path: "supabase/functions/hello/index.ts".into(),
            verify_jwt: false,
            ..VersionConfig::default()
        }
    );
    let body = r#"[{"slug": "hello", "version": 1, "id": "id", "status": "ACTIVE"}]"#;
    let active = as_token(&gate, "PUT", "/functions", body).await;
    assert_eq!(active.json()["functions"][0]["slug"], "hello");
    let listed = as_token(&gate, "GET", "/functions", "").await.json();
    for field in [
        "id",
        "slug",
        "name",
        "status",
        "version",
        "created_at",
        "updated_at",
    ] {
        assert!(!listed[0][field].is_null(), "{field} in {listed}");
    }
    let at_once = upload(&gate, "slug=hello", hello("Deno.serve(1)")).await;
    assert_eq!(at_once.json()["active"], true);

    let bearer = format!("Bearer {TOKEN}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("accept", "multipart/form-data"),
    ];
    let body = gate.get(&path("/functions/hello/body"), &headers).await;
    assert!(
        body.header("content-type")
            .unwrap()
            .starts_with("multipart/form-data")
    );
    let text = String::from_utf8(body.body.to_vec()).unwrap();
    assert!(
        text.contains("Supabase-Path: supabase/functions/hello/index.ts\r\n"),
        "{text}"
    );
    assert!(text.contains("\r\n\r\nDeno.serve(1)\r\n"), "{text}");
    assert_eq!(
        as_token(&gate, "GET", "/functions/hello/body", "").await.status,
        406
    );
    assert_eq!(as_token(&gate, "GET", "/functions/other", "").await.status, 404);
    assert_eq!(
        as_token(&gate, "DELETE", "/functions/hello", "").await.json(),
        json!({ "message": "ok" })
    );
    assert_eq!(
        as_token(&gate, "DELETE", "/functions/other", "").await.status,
        404
    );
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_and_nothing_is_stored() {
    let (gate, shelf) = shelf().await;
    let meta = metadata().to_string();
    let index = "supabase/functions/hello/index.ts";
    let with = |file: &str, content: &str| {
        form(&[
            ("metadata", None, &meta),
            ("file", Some(index), ""),
            ("file", Some(file), content),
        ])
    };
    let changed = |field: &str, value: Value| {
        let mut meta = metadata();
        meta[field] = value;
        form(&[("metadata", None, &meta.to_string()), ("file", Some(index), "")])
    };
    for (what, form, told) in [
        (
            "a way out",
            with("supabase/../../etc/cron.d/x", ""),
            "leads out of the project",
        ),
        ("an absolute path", with("/etc/passwd", ""), "is absolute"),
        ("a backslash", with("a\\\\b", ""), "backslash"),
        (
            "a file of secrets",
            with("supabase/functions/.env", "A=1"),
            "file of secrets",
        ),
        ("a file twice", with(index, ""), "given twice"),
        (
            "a file in a file",
            with(&format!("{index}/x"), ""),
            "a file and a folder at once",
        ),
        (
            "no metadata",
            form(&[("file", Some(index), "")]),
            "Part metadata is missing",
        ),
        (
            "metadata twice",
            form(&[("metadata", None, &meta), ("metadata", None, &meta)]),
            "given twice",
        ),
        (
            "no entry file",
            form(&[("metadata", None, &meta)]),
            "is not among the files",
        ),
        (
            "an unknown part",
            form(&[("other", None, "x")]),
            "\"other\" is not known",
        ),
        (
            "a file without a name",
            form(&[("metadata", None, &meta), ("file", None, "x")]),
            "has no filename",
        ),
        (
            "metadata that are no JSON",
            form(&[("metadata", None, "{")]),
            "not acceptable JSON",
        ),
        (
            "a wrong type",
            changed("verify_jwt", json!("yes")),
            "expected a boolean",
        ),
        (
            "an entry outside",
            changed("entrypoint_path", json!("../x.ts")),
            "leads out of the project",
        ),
        (
            "a pattern outside",
            changed("static_patterns", json!(["../*"])),
            "leads out of the project",
        ),
        (
            "a map that is not there",
            changed("import_map_path", json!("deno.json")),
            "is not among the files",
        ),
    ] {
        let reply = upload(&gate, "slug=hello", form).await;
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(reply.status, 400, "{what}: {message}");
        assert!(message.contains(told), "{what}: {message}");
    }
    let key = format!("sb_secret_{}", "N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz");
    let reply = upload(
        &gate,
        "slug=hello",
        with(
            "supabase/functions/_shared/k.ts",
            &format!("\nconst k = '{key}';"),
        ),
    )
    .await;
    assert_eq!(
        (reply.status.as_u16(), reply.code()),
        (400, "SECRET_IN_SOURCES".into())
    );
    let text = reply.json().to_string();
    assert!(
        text.contains("supabase/functions/_shared/k.ts:2: holds a secret key"),
        "{text}"
    );
    assert!(!text.contains(&key), "the answer does not repeat it");
    for (query, status) in [
        ("", 400),
        ("slug=..", 400),
        ("slug=a%2Fb", 400),
        ("slug=hello&bundleOnly=maybe", 400),
    ] {
        assert_eq!(upload(&gate, query, hello("")).await.status, status, "{query}");
    }
    let eszip = upload(
        &gate,
        "slug=hello",
        ("application/vnd.denoland.eszip".into(), vec![]),
    )
    .await;
    assert_eq!(eszip.status, 415);
    let eszip = as_token(&gate, "POST", "/functions?slug=hello", "EZBR").await;
    assert!(eszip.json()["message"].as_str().unwrap().contains("--use-api"));
    let json = upload(&gate, "slug=hello", ("application/json".into(), b"{}".to_vec())).await;
    assert_eq!(json.status, 415);
    assert_eq!(shelf.stored(), 0);
}

#[tokio::test]
async fn uploads_that_are_cut_off_or_too_large_leave_nothing() {
    let (gate, shelf) = shelf().await;
    let (content_type, body) = hello("Deno.serve()");
    let whole = body.len();
    // the form ends in the middle of a part, and the body with it
    let half = upload(
        &gate,
        "slug=hello",
        (content_type.clone(), body[..whole / 2].to_vec()),
    )
    .await;
    assert_eq!((half.status.as_u16(), half.code()), (400, "BAD_REQUEST".into()));
    assert!(half.json()["message"].as_str().unwrap().contains("ended early"));
    // the client goes away
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: {content_type}\r\ncontent-length: {whole}\r\n\r\n",
        path("/functions/deploy?slug=hello"),
    );
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&body[..whole / 2]).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest))
        .await
        .unwrap();
    // said to be too large
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        path("/functions/deploy?slug=hello"),
        limits::UPLOAD_BODY_MAX + 1,
    );
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(
        String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 413"),
        "{answer:?}"
    );
    assert_eq!(shelf.stored(), 0);
    // and the next one is taken
    assert_eq!(upload(&gate, "slug=hello", hello("")).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_uploads_at_once_are_all_taken_and_calls_go_on() {
    let (gate, shelf) = shelf().await;
    let uploads = (0..200).map(|number| {
        let gate = &gate;
        async move {
            let query = format!("slug=f{number}&bundleOnly=true");
            upload(gate, &query, hello("Deno.serve()")).await.status
        }
    });
    let calls = async {
        for _ in 0..20 {
            let reply = gate.get("/functions/v1/echo", &[("apikey", PUBLISHABLE)]).await;
            assert_eq!(reply.status, 200);
        }
    };
    let (stored, ()) = tokio::join!(futures_util::future::join_all(uploads), calls);
    assert!(
        stored.iter().all(|status| *status == StatusCode::CREATED),
        "{stored:?}"
    );
    let names: std::collections::BTreeSet<String> = shelf
        .stored
        .lock()
        .unwrap()
        .iter()
        .map(|new| new.name.clone())
        .collect();
    assert_eq!(names.len(), 200);
}
