//! A function's `.npmrc`: registries of its own, and what it may not say.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::{Project, call, ok, reason, stop};

/// A registry with one package, for those who show a token.
struct Registry {
    address: SocketAddr,
    /// Paths that were asked for without it.
    refused: Arc<Mutex<Vec<String>>>,
}

const TOKEN: &str = "registry-secret";

impl Registry {
    async fn start(folder: &Path) -> Registry {
        let package = folder.join("package");
        std::fs::create_dir(&package).unwrap();
        std::fs::write(
            package.join("package.json"),
            r#"{"name": "@acme/greet", "version": "1.2.3", "type": "module", "main": "index.js"}"#,
        )
        .unwrap();
        std::fs::write(
            package.join("index.js"),
            "export const greet = (name) => 'hello ' + name;",
        )
        .unwrap();
        let made = Command::new("tar")
            .args(["czf", "greet.tgz", "package"])
            .current_dir(folder)
            .status();
        assert!(made.unwrap().success());
        let tarball = std::fs::read(folder.join("greet.tgz")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let about = serde_json::json!({
            "name": "@acme/greet",
            "dist-tags": { "latest": "1.2.3" },
            "versions": { "1.2.3": {
                "name": "@acme/greet", "version": "1.2.3", "type": "module", "main": "index.js",
                "dist": { "tarball": format!("http://{address}/greet.tgz") },
            } },
        });
        let about = about.to_string().into_bytes();
        let refused = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&refused);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let is_shown = head
                    .to_lowercase()
                    .contains(&format!("authorization: bearer {TOKEN}"));
                let (status, content) = match path.as_str() {
                    _ if !is_shown => {
                        kept.lock().unwrap().push(path);
                        ("401 Unauthorized", &b"{}"[..])
                    }
                    "/greet.tgz" => ("200 OK", &tarball[..]),
                    _ => ("200 OK", &about[..]),
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    content.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.write_all(content).await;
            }
        });
        Registry { address, refused }
    }
}

const SOURCE: &str =
    "import { greet } from 'npm:@acme/greet@^1.2.0'; Deno.serve(() => new Response(greet('ada')));";

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_comes_from_the_registry_that_the_npmrc_names() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path()).await;
    let address = registry.address;
    let lines = |token: &str| {
        format!(
            "; ours\n@acme:registry=http://{address}/\n//{address}/:_authToken={token}\nsave-exact=true\n"
        )
    };
    let project = Project::new()
        .file("own/.npmrc", &lines(TOKEN))
        .function("own", SOURCE)
        // for those that have none of their own
        .file(".npmrc", &lines("${ACME_TOKEN}"))
        .function_with("shared", SOURCE, |spec| {
            spec.env = Project::env("ACME_TOKEN", TOKEN)
        })
        .function("unset", SOURCE);
    own_cache(&project);
    let host = project.host().await;
    assert_eq!(call(&host, "own").await, ok("hello ada"));
    assert_eq!(call(&host, "shared").await, ok("hello ada"));
    let told = reason(&host, "unset");
    let place = project.path(".npmrc");
    assert!(
        told.contains(place.canonicalize().unwrap().to_str().unwrap())
            && told.contains("line 3: ${ACME_TOKEN} is not set"),
        "{told}"
    );
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_another_token_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path()).await;
    let address = registry.address;
    let lines = format!("@acme:registry=http://{address}\n//{address}/:_authToken=another\n");
    let project = Project::new()
        .file("wrong/.npmrc", &lines)
        .function("wrong", SOURCE);
    own_cache(&project);
    let host = project.host().await;
    let told = reason(&host, "wrong");
    assert!(
        told.contains("has no @acme/greet@^1.2.0") && told.contains("another token (.npmrc)"),
        "{told}"
    );
    assert!(!registry.refused.lock().unwrap().is_empty());
    stop(&host).await;
}

/// Not the packages that other tests fetched.
fn own_cache(project: &Project) {
    let cache = project.state_dir().join("deno");
    std::fs::remove_file(&cache).unwrap();
    std::fs::create_dir(&cache).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_cannot_be_honoured_are_refused_by_name() {
    let lines = [
        (
            "address",
            "\nregistry=npm.example.com",
            "line 2: the value of `registry` is no http or https address",
        ),
        (
            "cert",
            "//npm.example.com/:certfile=/etc/key",
            "`//npm.example.com/:certfile` is not supported",
        ),
        (
            "bare",
            "_authToken=secret-token",
            "`_authToken` must say for which registry",
        ),
        ("tls", "strict-ssl=false", "set HTTPS_PROXY or DENO_CERT"),
        ("open", "@a:registry=https://${HOST", "a `${` without its `}`"),
    ];
    let mut project = Project::new();
    for (name, line, _) in lines {
        project = project
            .file(&format!("{name}/.npmrc"), line)
            .function(name, "Deno.serve(() => new Response('x'));");
    }
    let host = project.host().await;
    for (name, _, expected) in lines {
        let told = reason(&host, name);
        assert!(
            told.contains(expected) && told.contains(&format!("{name}/.npmrc")),
            "{told}"
        );
        assert!(!told.contains("secret-token"), "{told}");
    }
    stop(&host).await;
}
