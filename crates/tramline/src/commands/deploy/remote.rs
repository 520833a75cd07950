//! The management API of a node.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tramline_gateway::{Part, multipart};

use super::local::LocalFunction;
use crate::client::{Client, segment};
use crate::exit::{Done, Exit, Failure};

/// Longest time for one upload: sending it over a slow line, waiting for its turn, and bundling.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest time for anything else: activation waits until the node runs what was activated.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// The project behind a node.
pub struct Remote<'a> {
    client: &'a Client,
    reference: String,
    deno: String,
}

impl<'a> Remote<'a> {
    /// Asks the node which project it serves, which also tries the key.
    pub async fn find(client: &'a Client) -> Done<Remote<'a>> {
        let projects = client
            .ask(Method::GET, "/v1/projects", None, ANSWER_TIMEOUT)
            .await?;
        let reference = projects[0]["ref"].as_str().map(str::to_owned);
        let reference = reference.ok_or_else(|| {
            Failure::new(
                Exit::Failure,
                format!("failed to deploy to {}: it serves no project", client.url()),
            )
        })?;
        let deno = projects[0]["deno_version"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok(Remote {
            client,
            reference,
            deno,
        })
    }

    /// Twenty letters.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Version of the Deno that the node runs functions with.
    pub fn deno(&self) -> &str {
        &self.deno
    }

    pub fn url(&self) -> &str {
        self.client.url()
    }

    /// A request below the project.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Done<Value> {
        let path = format!("/v1/projects/{}{path}", self.reference);
        self.client.ask(method, &path, body, ANSWER_TIMEOUT).await
    }

    /// The active versions by name.
    pub async fn active(&self) -> Done<BTreeMap<String, Value>> {
        let functions = self.ask(Method::GET, "/functions", None).await?;
        Ok(by_name(&functions))
    }

    /// Stores a version, inactive.
    pub async fn upload(&self, function: &LocalFunction) -> Done<Value> {
        let mut metadata = json!(function.config);
        metadata["name"] = json!(function.name);
        let metadata = metadata.to_string();
        let mut parts = vec![Part {
            name: "metadata",
            file: None,
            content_type: "application/json",
            content: metadata.as_bytes(),
        }];
        parts.extend(function.files.iter().map(|(path, content)| Part {
            name: "file",
            file: Some(path),
            content_type: "application/octet-stream",
            content,
        }));
        let (content_type, body) = multipart(&parts);
        let path = format!(
            "/v1/projects/{}/functions/deploy?slug={}&bundleOnly=true",
            self.reference,
            segment(&function.name)
        );
        let request = self
            .client
            .request(Method::POST, &path)
            .bearer_auth(self.client.key()?)
            .header(CONTENT_TYPE, content_type)
            .timeout(UPLOAD_TIMEOUT)
            .body(body);
        self.client.json(request).await
    }

    /// Makes versions active, all or none.
    pub async fn activate(&self, versions: &[(String, i64)]) -> Done<BTreeMap<String, Value>> {
        let items: Vec<Value> = versions
            .iter()
            .map(|(name, version)| json!({ "slug": name, "version": version }))
            .collect();
        let answer = self.ask(Method::PUT, "/functions", Some(&json!(items))).await?;
        Ok(by_name(&answer["functions"]))
    }
}

fn by_name(functions: &Value) -> BTreeMap<String, Value> {
    let all = functions.as_array().into_iter().flatten();
    all.filter_map(|function| Some((function["slug"].as_str()?.to_owned(), function.clone())))
        .collect()
}
