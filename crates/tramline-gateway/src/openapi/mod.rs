//! The OpenAPI document of `/api/v1` and `/v1`, and the page that is rendered from it. Both are made of the routing tables
//! and of the types of the bodies, once in the life of the process, and served to anybody.

mod build;
pub(crate) mod kinds;
pub(crate) mod operation;
mod page;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::body::{Body, empty, full};

/// How long caches need not ask again: the document changes with the binary only, and a new one should be seen soon.
const CACHED: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The OpenAPI 3.1 document of the run API and of the management API, with the version of this crate, which is the binary's.
pub fn document() -> &'static Value {
    &Published::get().document
}

/// The document as it is served.
pub(crate) struct Published {
    document: Value,
    json: Text,
    page: Text,
    /// Nothing but the page's own style.
    policy: HeaderValue,
}

struct Text {
    bytes: Bytes,
    tag: HeaderValue,
}

impl Text {
    fn of(text: String) -> Self {
        let tag = format!("\"{}\"", hex::encode(&Sha256::digest(text.as_bytes())[..16]));
        Self {
            tag: HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\"")),
            bytes: text.into(),
        }
    }

    /// 304 for who has it.
    fn answer(&self, asked: &HeaderMap, content_type: &'static str) -> Response<Body> {
        let has_it = asked.get_all(IF_NONE_MATCH).iter().any(|value| {
            let known = value.to_str().unwrap_or_default().split(',');
            known
                .map(str::trim)
                .any(|tag| tag == "*" || tag.trim_start_matches("W/").as_bytes() == self.tag.as_bytes())
        });
        let mut response = Response::new(if has_it { empty() } else { full(self.bytes.clone()) });
        if has_it {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            let kind = HeaderValue::from_static(content_type);
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        response.headers_mut().insert(ETAG, self.tag.clone());
        response.headers_mut().insert(CACHE_CONTROL, CACHED);
        response
    }
}

static PUBLISHED: LazyLock<Published> = LazyLock::new(|| {
    let document = build::build();
    let style = STANDARD.encode(Sha256::digest(page::STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Published {
        json: Text::of(document.to_string()),
        page: Text::of(page::render(&document)),
        policy: HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'")),
        document,
    }
});

impl Published {
    pub(crate) fn get() -> &'static Self {
        &PUBLISHED
    }

    /// The document.
    pub(crate) fn json(&self, asked: &HeaderMap) -> Response<Body> {
        self.json.answer(asked, "application/json")
    }

    /// The page.
    pub(crate) fn page(&self, asked: &HeaderMap) -> Response<Body> {
        let mut response = self.page.answer(asked, "text/html; charset=utf-8");
        response
            .headers_mut()
            .insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        response
    }
}
