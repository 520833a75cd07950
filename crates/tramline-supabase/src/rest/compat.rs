//! Where `postrust` answers otherwise than PostgREST and clients notice.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use postrust_core::{SchemaCache, create_action_plan, parse_request};
use postrust_server::AppState;
use serde_json::{Value, json};

/// An error body is looked at to this size; the ones that matter are a few hundred bytes.
const ERROR_MAX_BYTES: usize = 64 << 10;

/// What is needed of a request after it was answered.
pub(super) struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub is_anon: bool,
}

/// The address as `postrust` must get it, when that is another one.
///
/// A client's form encoding writes a blank as `+`, which PostgREST reads as a blank and `postrust` as a plus: a filter
/// would silently find nothing. And postgrest-js quotes the names in `columns`, which `postrust` takes for part of the
/// names; a name that really holds a quote or a comma is not found then, as before.
pub(super) fn readable(uri: &Uri) -> Option<Uri> {
    let query = uri.query()?;
    let is_quoted = |parameter: &str| {
        parameter.starts_with("columns=") && (parameter.contains("%22") || parameter.contains('"'))
    };
    if !query.contains('+') && !query.split('&').any(is_quoted) {
        return None;
    }
    let parameters: Vec<String> = query
        .split('&')
        .map(|parameter| {
            let parameter = parameter.replace('+', "%20");
            if is_quoted(&parameter) {
                parameter.replace("%22", "").replace('"', "")
            } else {
                parameter
            }
        })
        .collect();
    format!("{}?{}", uri.path(), parameters.join("&")).parse().ok()
}

/// Correct an answer, if it is one of those that differ.
pub(super) async fn correct(response: Response, asked: &Asked, state: &AppState) -> Response {
    if response.status().is_success() {
        return if asked.wants_count_of_written() {
            with_count(response, &asked.method).await
        } else {
            response
        };
    }
    correct_error(response, asked, state).await
}

impl Asked {
    fn wants_count_of_written(&self) -> bool {
        let writes = matches!(
            self.method,
            Method::POST | Method::PUT | Method::PATCH | Method::DELETE
        );
        let mut preferences = self
            .headers
            .get_all("prefer")
            .iter()
            .filter_map(|value| value.to_str().ok());
        writes && !self.uri.path().starts_with("/rpc/") && preferences.any(|value| value.contains("count="))
    }
}

/// Put the number of written rows into `Content-Range`, where the answer tells it: from the range of an update, or
/// from the rows that are returned. An insert or delete that returns no rows does not tell.
async fn with_count(response: Response, method: &Method) -> Response {
    let (mut parts, body) = response.into_parts();
    // The whole answer is in memory already.
    let Ok(body) = body.collect().await else {
        return parts.status.into_response();
    };
    let body = body.to_bytes();
    let range = parts
        .headers
        .get(header::CONTENT_RANGE)
        .and_then(|range| range.to_str().ok())
        .unwrap_or("*/*");
    let of_range = range
        .strip_suffix("/*")
        .and_then(|range| range.split_once('-'))
        .and_then(|(first, last)| {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            (last + 1).checked_sub(first)
        });
    let of_body = || {
        serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(&body)
            .ok()
            .map(|rows| rows.len() as u64)
    };
    // An update without a range wrote nothing.
    let of_update = || (*method == Method::PATCH && range == "*/*").then_some(0);
    if let Some(count) = of_range.or_else(of_body).or_else(of_update) {
        let range = range.split('/').next().unwrap_or("*");
        if let Ok(value) = format!("{range}/{count}").parse() {
            parts.headers.insert(header::CONTENT_RANGE, value);
        }
    }
    Response::from_parts(parts, Body::from(body))
}

async fn correct_error(response: Response, asked: &Asked, state: &AppState) -> Response {
    if !matches!(
        response.status(),
        StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST
    ) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(body) = http_body_util::Limited::new(body, ERROR_MAX_BYTES)
        .collect()
        .await
    else {
        return parts.status.into_response();
    };
    let body = body.to_bytes();
    let error: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (parts.status, error["code"].as_str()) {
        // A known caller who lacks a privilege is forbidden, not unknown.
        (StatusCode::UNAUTHORIZED, Some("42501")) if !asked.is_anon => {
            parts.status = StatusCode::FORBIDDEN;
            parts.headers.remove(header::WWW_AUTHENTICATE);
        }
        // A misspelt column in `select`: the answer does not say which, and not in the code that PostgREST uses.
        (StatusCode::BAD_REQUEST, Some("PGRST204")) if error["message"] == "Column not found" => {
            let column = missing_column(asked, state)
                .await
                .unwrap_or_else(|| "in select".to_owned());
            let message = format!("column {column} does not exist");
            let body = json!({ "code": "42703", "details": null, "hint": null, "message": message });
            return (StatusCode::BAD_REQUEST, axum::Json(body)).into_response();
        }
        _ => {}
    }
    Response::from_parts(parts, Body::from(body))
}

/// Plan the request again to learn which column it was; planning asks no database.
async fn missing_column(asked: &Asked, state: &AppState) -> Option<String> {
    let mut request = http::Request::builder()
        .method(asked.method.clone())
        .uri(asked.uri.clone());
    request.headers_mut()?.clone_from(&asked.headers);
    let request = request.body(Vec::new()).ok()?;
    let request = parse_request(&request, state.default_schema(), state.schemas(), None).ok()?;
    let cache = state.schema_cache().await;
    let Err(postrust_core::Error::ColumnNotFound(column)) = create_action_plan(&request, &cache) else {
        return None;
    };
    Some(match addressed_table(asked, &cache, &request.schema) {
        Some(table) if !column.contains('.') => format!("{table}.{column}"),
        _ => column,
    })
}

/// The table in the path, when it is one: columns of embedded tables are named without theirs.
fn addressed_table(asked: &Asked, cache: &SchemaCache, schema: &str) -> Option<String> {
    let embeds = asked
        .uri
        .query()
        .is_some_and(|query| query.contains('(') || query.contains("%28"));
    let name = asked.uri.path().trim_matches('/');
    let known = cache
        .tables
        .keys()
        .any(|table| table.schema == schema && table.name == name);
    (known && !embeds).then(|| name.to_owned())
}
