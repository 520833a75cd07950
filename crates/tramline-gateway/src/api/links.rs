//! `/api/v1/links`.

use http::{Request, Response, StatusCode};

use super::answers::SignedLink;
use super::bodies::{NewLinkBody, RequestBody as _};
use super::fields::{Fields, Problems, as_whole};
use super::{ApiCall, json_answer, read_json};
use crate::body::Body;
use crate::error::Fault;
use crate::gate_store::NewLink;

/// Longest path and longest query; browsers and mail programs cut longer URLs.
pub(super) const PART_CHARS_MAX: usize = 1_024;
const EXPIRES_DEFAULT_S: i64 = 3_600;

/// `{function, path, query, method, expires_in}`: signs a link to a function.
pub(super) async fn sign(call: &ApiCall<'_>, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let store = call.gate_store.ok_or_else(|| Fault::no_backend("/links"))?;
    let body = read_json(request).await?;
    let mut problems = Problems::default();
    let mut fields = Fields::new(body, String::new(), NewLinkBody::FIELDS, &mut problems);
    let function = fields.text("function", PART_CHARS_MAX);
    if function.is_none() {
        fields.problem("function", "must be the name of a function");
    }
    let expires_in_s = match fields.take("expires_in") {
        None => EXPIRES_DEFAULT_S,
        Some(seconds) => match as_whole(&seconds) {
            Some(seconds) if seconds > 0 => seconds,
            _ => fields
                .refuse("expires_in", "must be a whole number of seconds")
                .unwrap_or(EXPIRES_DEFAULT_S),
        },
    };
    let link = NewLink {
        function: function.unwrap_or_default(),
        path: fields.text("path", PART_CHARS_MAX).unwrap_or_default(),
        query: fields.text("query", PART_CHARS_MAX).unwrap_or_default(),
        method: fields.text("method", 16).unwrap_or_else(|| "GET".to_owned()),
        expires_in_s,
    };
    let link = problems.finish(link)?;
    let signed = store.sign_link(link).await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &SignedLink { path: signed })
}
