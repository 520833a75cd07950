//! `/api/v1/retention`.

use http::{Response, StatusCode};

use super::{ApiCall, json_answer};
use crate::body::Body;
use crate::error::Fault;

/// How the days of the ledger stand; with `apply`, after dropping what may be dropped.
pub(super) async fn retention(call: &ApiCall<'_>, apply: bool) -> Result<Response<Body>, Fault> {
    let retention = call.control.retention(apply).await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &retention)
}
