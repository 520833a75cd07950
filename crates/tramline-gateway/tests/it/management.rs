//! `/v1`: who may deploy, what is taken, and that nothing is left behind when it is not.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tramline_core::deploy::{SECRETS_MAX, VersionConfig};
use tramline_gateway::control::ControlError;
use tramline_gateway::*;

use crate::support::*;

const REF: &str = "abcdefghijklmnopqrst";
const TOKEN: &str = "sbp_0123456789abcdef0123456789abcdef01234567";

/// Deployments in memory: what was stored, what is active, what was asked for.
#[derive(Default)]
struct Shelf {
    stored: Mutex<Vec<NewVersion>>,
    active: Mutex<Vec<(String, i32)>>,
    secrets: Mutex<Vec<(String, String)>>,
    actors: Mutex<Vec<String>>,
}

impl Shelf {
    fn version(&self, at: usize) -> FunctionVersion {
        let stored = self.stored.lock().unwrap();
        let version = i32::try_from(at + 1).unwrap();
        FunctionVersion {
            name: stored[at].name.clone(),
            id: "id".into(),
            version,
            is_active: self
                .active
                .lock()
                .unwrap()
                .iter()
                .any(|(_, active)| *active == version),
            config: stored[at].config.clone(),
            sources_sha256: "s".into(),
            bundle_sha256: "b".into(),
            dependencies: json!([]),
            created_by: "tests".into(),
            deployed_at: 1,
            created_at: 1,
            updated_at: 2,
            state: Some(("ready", None)),
        }
    }

    fn stored(&self) -> usize {
        self.stored.lock().unwrap().len()
    }
}

fn kept<T: Send + 'static>(value: Result<T, ControlError>) -> Kept<T> {
    async move { value }.boxed()
}

fn no_function(name: &str) -> ControlError {
    ControlError::NotFound {
        what: "function",
        name: name.into(),
    }
}

impl Deployments for Shelf {
    fn project(&self) -> Kept<ProjectName> {
        kept(Ok(ProjectName {
            reference: REF.into(),
            name: "tests".into(),
        }))
    }

    fn token(&self, sha256: [u8; 32]) -> Kept<Option<String>> {
        let expected: [u8; 32] = Sha256::digest(TOKEN).into();
        kept(Ok((sha256 == expected).then(|| "ci".to_owned())))
    }

    fn functions(&self) -> Kept<Vec<FunctionVersion>> {
        let all = (0..self.stored()).map(|at| self.version(at));
        kept(Ok(all.filter(|version| version.is_active).collect()))
    }

    fn versions(&self, name: &str) -> Kept<Vec<FunctionVersion>> {
        let all = (0..self.stored()).map(|at| self.version(at));
        let found: Vec<_> = all.filter(|version| version.name == name).collect();
        kept(if found.is_empty() {
            Err(no_function(name))
        } else {
            Ok(found)
        })
    }

    fn sources(&self, name: &str, version: Option<i32>) -> Kept<Sources> {
        let stored = self.stored.lock().unwrap();
        let found = stored.iter().rev().find(|stored| stored.name == name);
        kept(found.map_or_else(
            || Err(no_function(name)),
            |found| {
                Ok(Sources {
                    version: version.unwrap_or(1),
                    config: found.config.clone(),
                    files: found.files.clone(),
                })
            },
        ))
    }

    fn store(&self, new: NewVersion, actor: String) -> Kept<FunctionVersion> {
        self.actors.lock().unwrap().push(actor);
        self.stored.lock().unwrap().push(new);
        kept(Ok(self.version(self.stored() - 1)))
    }

    fn activate(&self, versions: Vec<(String, i32)>, _: String) -> Kept<Vec<FunctionVersion>> {
        self.active.lock().unwrap().extend(versions.clone());
        let all = versions
            .iter()
            .map(|(_, version)| self.version(usize::try_from(*version).unwrap() - 1));
        kept(Ok(all.collect()))
    }

    fn roll_back(&self, name: &str, _: String) -> Kept<FunctionVersion> {
        kept(Err(no_function(name)))
    }

    fn delete(&self, name: &str, _: String) -> Kept<()> {
        kept(if name == "hello" {
            Ok(())
        } else {
            Err(no_function(name))
        })
    }

    fn secrets(&self) -> Kept<Vec<SecretDigest>> {
        kept(Ok(vec![SecretDigest {
            name: "A".into(),
            value: "digest".into(),
            updated_at: "2026-01-01T00:00:00Z".into(),
        }]))
    }

    fn set_secrets(&self, secrets: Vec<(String, String)>, _: String) -> Kept<()> {
        self.secrets.lock().unwrap().extend(secrets);
        kept(Ok(()))
    }

    fn unset_secrets(&self, _: Vec<String>) -> Kept<()> {
        kept(Ok(()))
    }

    fn tokens(&self) -> Kept<Vec<AccessToken>> {
        kept(Ok(vec![]))
    }

    fn create_token(&self, name: &str, _: Option<i64>, actor: String) -> Kept<(String, AccessToken)> {
        let token = AccessToken {
            id: "id".into(),
            name: name.into(),
            created_by: actor,
            created_at: "2026-01-01T00:00:00Z".into(),
            expires_at: None,
            revoked_at: None,
        };
        kept(Ok((TOKEN.into(), token)))
    }

    fn revoke_token(&self, name: &str) -> Kept<u64> {
        kept(Ok(u64::from(name == "ci")))
    }
}

async fn shelf() -> (Gate, Arc<Shelf>) {
    let shelf = Arc::new(Shelf::default());
    let deployments = shelf.clone();
    (gate(|config| config.deployments = Some(deployments)).await, shelf)
}

fn path(rest: &str) -> String {
    format!("/v1/projects/{REF}{rest}")
}

fn metadata() -> Value {
    json!({ "entrypoint_path": "supabase/functions/hello/index.ts", "static_patterns": [], "verify_jwt": false, "name": "hello" })
}

/// A form with these parts: name, file name, content.
fn form(parts: &[(&str, Option<&str>, &str)]) -> (String, Vec<u8>) {
    let parts: Vec<Part<'_>> = parts
        .iter()
        .map(|(name, file, content)| Part {
            name,
            file: *file,
            content_type: "application/octet-stream",
            content: content.as_bytes(),
        })
        .collect();
    multipart(&parts)
}

fn hello(content: &str) -> (String, Vec<u8>) {
    let metadata = metadata().to_string();
    form(&[
        ("file", Some("supabase/functions/hello/index.ts"), content),
        ("metadata", None, &metadata),
    ])
}

async fn upload(gate: &Gate, query: &str, (content_type, body): (String, Vec<u8>)) -> Reply {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", &content_type),
    ];
    let request = with_headers(
        gate.request("POST", &path(&format!("/functions/deploy?{query}"))),
        &headers,
    );
    gate.send(request.body(full(body)).unwrap()).await
}

async fn as_token(gate: &Gate, method: &str, rest: &str, body: &str) -> Reply {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    gate.call(method, &path(rest), &headers, body).await
}

#[tokio::test]
async fn only_tokens_and_the_service_role_come_in() {
    let (gate, _) = shelf().await;
    let list = path("/functions");
    let code = async |bearer: &str| {
        let bearer = format!("Bearer {bearer}");
        let reply = gate.get(&list, &[("authorization", &bearer)]).await;
        (
            reply.status.as_u16(),
            if reply.status.is_success() {
                String::new()
            } else {
                reply.code()
            },
        )
    };
    assert_eq!(code(TOKEN).await, (200, String::new()));
    assert_eq!(code(&role_token("service_role")).await, (200, String::new()));
    assert_eq!(code(SECRET_KEY).await, (200, String::new()));
    for wrong in [
        &TOKEN.replace("01", "02"),
        "sbp_",
        "sbp_0123",
        &TOKEN.to_uppercase().replace("SBP", "sbp"),
    ] {
        assert_eq!(
            code(wrong).await,
            (401, "UNAUTHORIZED_ACCESS_TOKEN".into()),
            "{wrong}"
        );
    }
    for other in [role_token("anon"), user_token(), PUBLISHABLE.into()] {
        assert_eq!(code(&other).await, (403, "FORBIDDEN".into()), "{other}");
    }
    assert_eq!(gate.get(&list, &[]).await.status, 401);
    // a token may not make tokens, which would outlive its withdrawal
    let body = r#"{"name": "more"}"#;
    assert_eq!(as_token(&gate, "POST", "/tokens", body).await.status, 403);
    assert_eq!(as_token(&gate, "GET", "/tokens", "").await.status, 403);
    let made = gate
        .service("POST", &path("/tokens"), &json!({ "name": "ci" }))
        .await;
    assert_eq!(
        (made.status, made.json()["token"].as_str()),
        (StatusCode::CREATED, Some(TOKEN))
    );
    let refused = gate
        .service("POST", &path("/tokens"), &json!({ "name": "" }))
        .await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        gate.service("DELETE", &path("/tokens/ci"), &Value::Null)
            .await
            .status,
        200
    );
    assert_eq!(
        gate.service("DELETE", &path("/tokens/x"), &Value::Null)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn paths_and_projects_that_are_not_here_are_told() {
    let (gate, _) = shelf().await;
    let other = gate
        .service("GET", "/v1/projects/zzzzzzzzzzzzzzzzzzzz/functions", &Value::Null)
        .await;
    assert_eq!((other.status.as_u16(), other.code()), (404, "NOT_FOUND".into()));
    assert!(other.json()["message"].as_str().unwrap().contains(REF));
    let project = as_token(&gate, "GET", "", "").await.json();
    assert_eq!(
        (&project["ref"], &project["name"]),
        (&json!(REF), &json!("tests"))
    );
    let refused = as_token(&gate, "POST", "/secrets/x", "").await;
    assert_eq!(refused.status, 404);
    let refused = as_token(&gate, "PATCH", "/secrets", "").await;
    assert_eq!(
        (refused.status.as_u16(), refused.header("allow")),
        (405, Some("GET, POST, DELETE"))
    );
    let without = gate_without().await;
    assert_eq!(
        without.service("GET", "/v1/projects", &Value::Null).await.status,
        404
    );
}

async fn gate_without() -> Gate {
    gate(|_| {}).await
}

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

#[tokio::test]
async fn secrets_come_in_and_only_digests_go_out() {
    let (gate, shelf) = shelf().await;
    let set = async |body: Value| {
        let reply = as_token(&gate, "POST", "/secrets", &body.to_string()).await;
        let told = serde_json::from_slice::<Value>(&reply.body).ok();
        (
            reply.status.as_u16(),
            told.map(|told| told["message"].as_str().unwrap().to_owned())
                .unwrap_or_default(),
        )
    };
    assert_eq!(
        set(json!([{ "name": "A", "value": "1" }])).await,
        (201, String::new())
    );
    let too_many: Vec<Value> = (0..=SECRETS_MAX)
        .map(|n| json!({ "name": format!("A{n}"), "value": "" }))
        .collect();
    for (body, told) in [
        (
            json!([{ "name": "SUPABASE_URL", "value": "x" }]),
            "set by the platform",
        ),
        (json!([{ "name": "CRON_SECRET", "value": "x" }]), "nodes' own"),
        (json!([{ "name": "A B", "value": "x" }]), "no name of a variable"),
        (json!([{ "name": "B", "value": 1 }]), "both texts"),
        (
            json!([{ "name": "B", "value": "1" }, { "name": "B", "value": "2" }]),
            "given twice",
        ),
        (json!({ "B": "1" }), "Send an array"),
        (json!([]), "No secret is named"),
        (json!(too_many), "at most 100"),
    ] {
        let (status, message) = set(body.clone()).await;
        assert_eq!(status, 400, "{body}");
        assert!(message.contains(told), "{message}");
    }
    assert_eq!(
        *shelf.secrets.lock().unwrap(),
        [("A".to_owned(), "1".to_owned())],
        "all or none"
    );
    let list = as_token(&gate, "GET", "/secrets", "").await.json();
    assert_eq!(
        list,
        json!([{ "name": "A", "value": "digest", "updated_at": "2026-01-01T00:00:00Z" }])
    );
    assert_eq!(
        as_token(&gate, "DELETE", "/secrets", r#"["A"]"#).await.status,
        200
    );
    assert_eq!(as_token(&gate, "DELETE", "/secrets", "[1]").await.status, 400);
}
