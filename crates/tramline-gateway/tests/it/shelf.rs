//! Deployments in memory, and requests of a client that deploys.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tramline_gateway::control::ControlError;
use tramline_gateway::*;

use crate::support::*;

pub const REF: &str = "abcdefghijklmnopqrst";
pub const TOKEN: &str = "sbp_0123456789abcdef0123456789abcdef01234567";

/// Deployments in memory: what was stored, what is active, what was asked for.
#[derive(Default)]
pub struct Shelf {
    pub stored: Mutex<Vec<NewVersion>>,
    pub active: Mutex<Vec<(String, i32)>>,
    pub secrets: Mutex<Vec<(String, String)>>,
    pub actors: Mutex<Vec<String>>,
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

    pub fn stored(&self) -> usize {
        self.stored.lock().unwrap().len()
    }
}

pub fn kept<T: Send + 'static>(value: Result<T, ControlError>) -> Kept<T> {
    async move { value }.boxed()
}

pub fn no_function(name: &str) -> ControlError {
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
            deno: "2.0.0".into(),
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

pub async fn shelf() -> (Gate, Arc<Shelf>) {
    let shelf = Arc::new(Shelf::default());
    let deployments = shelf.clone();
    (gate(|config| config.deployments = Some(deployments)).await, shelf)
}

pub fn path(rest: &str) -> String {
    format!("/v1/projects/{REF}{rest}")
}

pub fn metadata() -> Value {
    json!({ "entrypoint_path": "supabase/functions/hello/index.ts", "static_patterns": [], "verify_jwt": false, "name": "hello" })
}

/// A form with these parts: name, file name, content.
pub fn form(parts: &[(&str, Option<&str>, &str)]) -> (String, Vec<u8>) {
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

pub fn hello(content: &str) -> (String, Vec<u8>) {
    let metadata = metadata().to_string();
    form(&[
        ("file", Some("supabase/functions/hello/index.ts"), content),
        ("metadata", None, &metadata),
    ])
}

pub async fn upload(gate: &Gate, query: &str, (content_type, body): (String, Vec<u8>)) -> Reply {
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

pub async fn as_token(gate: &Gate, method: &str, rest: &str, body: &str) -> Reply {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    gate.call(method, &path(rest), &headers, body).await
}
