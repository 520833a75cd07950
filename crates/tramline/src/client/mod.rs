//! A client of a node's HTTP API: finds the node, sends, and turns every failure into a sentence and an exit code.

mod failure;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::cli::Global;
use crate::exit::{Done, Exit, Failure};
use crate::place::{DevFile, DevNode, find_project};

/// Longest time for the connection; a node on the same machine or network answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for one answer: a waiting start is answered after 60 s at the latest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(75);

/// A node and the right to talk to it.
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: Option<String>,
    /// The running `dev` it was found by, when neither --url nor --key were given.
    dev: Option<DevNode>,
    project: Option<PathBuf>,
}

impl Client {
    /// The node of `--url`, else the one that `dev` runs in the project.
    pub fn find(global: &Global) -> Done<Self> {
        let project = find_project(global.project.as_deref());
        let dev = project
            .as_ref()
            .ok()
            .and_then(|dir| DevFile::read(dir))
            .and_then(|file| file.node);
        let (url, dev) = match (&global.url, dev) {
            (Some(url), dev) => {
                let url = url.trim_end_matches('/').to_owned();
                // the local keys are for the local node only
                let dev = dev.filter(|dev| dev.url == url);
                (url, dev)
            }
            (None, Some(dev)) => (dev.url.clone(), Some(dev)),
            (None, None) => {
                let dir = project?;
                return Err(Failure::new(
                    Exit::Unavailable,
                    format!(
                        "failed to find a node: `tramline dev` does not run in {}",
                        dir.display()
                    ),
                )
                .hint(format!(
                    "Start it with `tramline dev {}`, or give --url and --key.",
                    dir.display()
                )));
            }
        };
        let key = global
            .key
            .clone()
            .or_else(|| dev.as_ref().map(|dev| dev.service_role_key.clone()));
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("tramline/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::of(Exit::Failure, &error))?;
        Ok(Self {
            http,
            url,
            key,
            dev,
            project: project.ok(),
        })
    }

    /// Base address, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The running `dev` that was found.
    pub fn dev(&self) -> Option<&DevNode> {
        self.dev.as_ref()
    }

    /// The cron secret of the project's `dev`.
    pub fn cron_secret(&self) -> Option<String> {
        self.project
            .as_ref()
            .and_then(|dir| DevFile::read(dir))
            .map(|file| file.cron_secret)
    }

    /// The service role key.
    pub fn key(&self) -> Done<&str> {
        self.key.as_deref().ok_or_else(|| {
            Failure::new(
                Exit::Unauthorized,
                "failed to find a key: --url was given without --key",
            )
            .hint("Give a service role key with --key or TRAMLINE_KEY; for `deploy` an access token will do.")
        })
    }

    /// A request to a path of the node, without credentials.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// `GET /api/v1<path>`.
    pub async fn get(&self, path: &str) -> Done<Value> {
        let request = self.api(Method::GET, path)?.timeout(ANSWER_TIMEOUT);
        self.json(request).await
    }

    /// `POST /api/v1<path>`.
    pub async fn post(&self, path: &str, body: Option<&Value>) -> Done<Value> {
        let mut request = self.api(Method::POST, path)?.timeout(ANSWER_TIMEOUT);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.json(request).await
    }

    /// `PUT /api/v1<path>`.
    pub async fn put(&self, path: &str, body: &Value) -> Done<Value> {
        let request = self.api(Method::PUT, path)?.timeout(ANSWER_TIMEOUT);
        self.json(request.json(body)).await
    }

    /// `DELETE /api/v1<path>`.
    pub async fn delete(&self, path: &str) -> Done<Value> {
        let request = self.api(Method::DELETE, path)?.timeout(ANSWER_TIMEOUT);
        self.json(request).await
    }

    /// `GET /api/v1<path>` whose answer is read piece by piece, for as long as it takes.
    pub async fn stream(&self, path: &str) -> Done<Response> {
        let request = self.api(Method::GET, path)?;
        let response = self.send(request).await?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refusal(response).await)
        }
    }

    /// Sends; only a node that cannot be reached is a failure.
    pub async fn send(&self, request: RequestBuilder) -> Done<Response> {
        request
            .send()
            .await
            .map_err(|error| failure::of_transport(&error, self))
    }

    fn api(&self, method: Method, path: &str) -> Done<RequestBuilder> {
        Ok(self
            .request(method, &format!("/api/v1{path}"))
            .bearer_auth(self.key()?))
    }

    /// A request to a path of the node with the key, and its answer.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        timeout: Duration,
    ) -> Done<Value> {
        let mut request = self
            .request(method, path)
            .bearer_auth(self.key()?)
            .timeout(timeout);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.json(request).await
    }

    /// Sends, and reads the answer's JSON; another status than a success is a failure.
    pub async fn json(&self, request: RequestBuilder) -> Done<Value> {
        let response = self.send(request).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        response.json().await.map_err(|_| self.not_tramline())
    }

    /// Why the node refused.
    pub async fn refusal(&self, response: Response) -> Failure {
        let status = response.status();
        match response.json::<Value>().await {
            Ok(body) => failure::of_answer(status, body),
            Err(_) => self.not_tramline(),
        }
    }

    fn not_tramline(&self) -> Failure {
        Failure::new(
            Exit::Failure,
            format!(
                "failed to understand the answer of {}: it is not tramline's",
                self.url
            ),
        )
        .hint("Check --url; it is the address of the gateway, such as http://127.0.0.1:54321.")
    }
}

/// A segment of a path.
pub fn segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte))
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// A query string of the pairs that have a value.
pub fn query(pairs: &[(&str, Option<String>)]) -> String {
    let given: Vec<String> = pairs
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", segment(value))))
        .collect();
    if given.is_empty() {
        String::new()
    } else {
        format!("?{}", given.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_paths_and_queries() {
        assert_eq!(segment("a b/ü"), "a%20b%2F%C3%BC");
        assert_eq!(query(&[("a", None), ("b", Some("x&y".into()))]), "?b=x%26y");
        assert_eq!(query(&[("a", None)]), "");
    }
}
