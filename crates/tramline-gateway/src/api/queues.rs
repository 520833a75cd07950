//! `/api/v1/queues`. What a queue may be set to is checked where it is stored.

use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::control::{Queue, SetQueue};
use super::fields::Problems;
use super::{ApiCall, json_answer, read_reason, read_storable, take_reason};
use crate::body::Body;
use crate::error::Fault;

pub(super) async fn list(call: &ApiCall<'_>) -> Result<Response<Body>, Fault> {
    let queues = call.control.list_queues(None).await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &queues)
}

pub(super) async fn get(call: &ApiCall<'_>, name: &str) -> Result<Response<Body>, Fault> {
    let queues = call.control.list_queues(Some(name.to_owned())).await;
    json_answer(
        StatusCode::OK,
        &queues.map_err(Fault::control)?.into_iter().next(),
    )
}

/// `{"name": ..., ...settings}`.
pub(super) async fn create(call: &ApiCall<'_>, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let mut settings = read_storable(request).await?;
    let name = settings
        .as_object_mut()
        .and_then(|settings| settings.remove("name"));
    let mut problems = Problems::default();
    let name = match name {
        Some(Value::String(name)) => name,
        _ => {
            problems.add("name", "name is missing: the queue's name, a text");
            String::new()
        }
    };
    let reason = taken_reason(&mut settings, &mut problems);
    let (name, reason) = problems.finish((name, reason))?;
    let queue = store(call, name, settings, SetQueue::Create, reason).await?;
    json_answer(StatusCode::CREATED, &queue)
}

pub(super) async fn set(
    call: &ApiCall<'_>,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let mut settings = read_storable(request).await?;
    let mut problems = Problems::default();
    let reason = taken_reason(&mut settings, &mut problems);
    let reason = problems.finish(reason)?;
    json_answer(
        StatusCode::OK,
        &store(call, name.to_owned(), settings, SetQueue::Change, reason).await?,
    )
}

pub(super) async fn pause(
    call: &ApiCall<'_>,
    name: &str,
    paused: bool,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let reason = read_reason(request).await?;
    let settings = json!({ "paused": paused });
    json_answer(
        StatusCode::OK,
        &store(call, name.to_owned(), settings, SetQueue::Change, reason).await?,
    )
}

/// `reason` beside the settings: it is of the change and not of the queue.
fn taken_reason(settings: &mut Value, problems: &mut Problems) -> Option<String> {
    let reason = settings.as_object_mut()?.remove("reason")?;
    take_reason(json!({ "reason": reason }), problems)
}

async fn store(
    call: &ApiCall<'_>,
    name: String,
    settings: Value,
    how: SetQueue,
    reason: Option<String>,
) -> Result<Queue, Fault> {
    let actor = call.actor.clone();
    let stored = call.control.set_queue(name, settings, how, reason, actor).await;
    stored.map_err(Fault::control)
}
