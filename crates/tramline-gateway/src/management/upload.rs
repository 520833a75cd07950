//! `POST /v1/projects/{ref}/functions/deploy`: sources as a form.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::BodyDataStream;
use multer::Multipart;
use serde_json::{Value, json};
use tramline_core::deploy::{FILES_MAX, VersionConfig, check_path, check_paths, find_leaks};

use super::ManagementCall;
use super::bodies::{Metadata, Version};
use super::functions::{checked_name, query};
use crate::api::json_answer;
use crate::body::Body;
use crate::deployments::NewVersion;
use crate::error::{Code, Fault};
use crate::limits::{JSON_DEPTH_MAX, METADATA_MAX};
use crate::strict_json;

/// Leaks that one answer names; whoever mends these finds the others.
const LEAKS_TOLD: usize = 20;

/// Stores a version, and with `bundleOnly` leaves it at that.
pub(super) async fn deploy(
    call: &ManagementCall<'_>,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let name = query(request.uri(), "slug").unwrap_or_default();
    let name = checked_name(&name)?.to_owned();
    let stored_only = match query(request.uri(), "bundleOnly").as_deref() {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(_) => return Err(Fault::bad_request("bundleOnly must be true or false")),
    };
    let (metadata, files) = read_form(request).await?;
    let new = NewVersion {
        config: config(metadata)?,
        name: name.clone(),
        files,
    };
    check(&new)?;
    let stored = call.deployments.store(new, call.actor.clone()).await;
    let stored = stored.map_err(Fault::control)?;
    if stored_only {
        return json_answer(StatusCode::CREATED, &Version::from(&stored));
    }
    let wanted = vec![(name, stored.version)];
    let active = call.deployments.activate(wanted, call.actor.clone()).await;
    let active = active.map_err(Fault::control)?.into_iter().next();
    json_answer(
        StatusCode::CREATED,
        &Version::from(active.as_ref().unwrap_or(&stored)),
    )
}

/// The parts, in whatever order.
async fn read_form(request: Request<Body>) -> Result<(Metadata, Vec<(String, Vec<u8>)>), Fault> {
    let content_type = request.headers().get(CONTENT_TYPE);
    let content_type = content_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if content_type.starts_with("application/vnd.denoland.eszip") {
        return Err(Fault::eszip());
    }
    let boundary = multer::parse_boundary(content_type).map_err(|_| {
        Fault::new(
            Code::UnsupportedMediaType,
            "Send the sources as multipart/form-data with a boundary",
        )
    })?;
    let mut form = Multipart::new(BodyDataStream::new(request.into_body()), boundary);
    let (mut metadata, mut files) = (None, Vec::new());
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
        let kind = field.name().unwrap_or_default().to_owned();
        let path = field.file_name().map(plain);
        let content: Bytes = field.bytes().await.map_err(|error| broken(&error))?;
        match kind.as_str() {
            "metadata" if metadata.is_some() => {
                return Err(Fault::bad_request("Part metadata is given twice"));
            }
            "metadata" => metadata = Some(read_metadata(&content)?),
            "file" => {
                let path = path.ok_or_else(|| Fault::bad_request("A part file has no filename"))?;
                files.push((path, content.to_vec()));
            }
            other => {
                return Err(Fault::bad_request(format!(
                    "Part {other:?} is not known: use metadata and file"
                )));
            }
        }
        if files.len() > FILES_MAX {
            return Err(Fault::bad_request(format!(
                "More than {FILES_MAX} files; check the function's imports"
            )));
        }
    }
    let metadata = metadata.ok_or_else(|| Fault::bad_request("Part metadata is missing"))?;
    Ok((metadata, files))
}

fn broken(error: &multer::Error) -> Fault {
    match error {
        multer::Error::IncompleteStream
        | multer::Error::IncompleteFieldData { .. }
        | multer::Error::StreamReadFailed(_) => Fault::bad_request("Upload ended early; nothing was stored"),
        other => Fault::bad_request(format!("Upload is not a form: {other}")),
    }
}

fn read_metadata(content: &[u8]) -> Result<Metadata, Fault> {
    if content.len() > METADATA_MAX {
        return Err(Fault::input_too_large("Part metadata", METADATA_MAX));
    }
    let value: Value = strict_json::parse(content, JSON_DEPTH_MAX).map_err(|fault| Fault::json(&fault))?;
    serde_json::from_value(value).map_err(|error| Fault::bad_request(format!("Part metadata: {error}")))
}

/// Clients write paths with `./` before them, and some as file URLs of their own folder.
fn plain(path: &str) -> String {
    path.trim_start_matches("./").to_owned()
}

fn config(metadata: Metadata) -> Result<VersionConfig, Fault> {
    let config = VersionConfig {
        entrypoint_path: plain(&metadata.entrypoint_path),
        import_map_path: metadata
            .import_map_path
            .filter(|path| !path.is_empty())
            .map(|path| plain(&path)),
        static_patterns: metadata
            .static_patterns
            .unwrap_or_default()
            .iter()
            .map(|pattern| plain(pattern))
            .collect(),
        // as on the platform
        verify_jwt: metadata.verify_jwt.unwrap_or(true),
        settings: metadata.settings,
    };
    let named = [("entrypoint_path", &config.entrypoint_path)]
        .into_iter()
        .chain(
            config
                .import_map_path
                .iter()
                .map(|path| ("import_map_path", path)),
        )
        .chain(
            config
                .static_patterns
                .iter()
                .map(|path| ("static_patterns", path)),
        );
    for (field, path) in named {
        check_path(path).map_err(|fault| Fault::bad_request(format!("{field}: {path:?} {fault}")))?;
    }
    Ok(config)
}

/// Nothing that could be written elsewhere, nothing that opens doors.
fn check(new: &NewVersion) -> Result<(), Fault> {
    check_paths(new.files.iter().map(|(path, _)| path.as_str()))
        .map_err(|(path, fault)| Fault::bad_request(format!("File {path:?} {fault}")))?;
    let has = |wanted: &str| new.files.iter().any(|(path, _)| path == wanted);
    if !has(&new.config.entrypoint_path) {
        return Err(Fault::bad_request(format!(
            "entrypoint_path: {:?} is not among the files",
            new.config.entrypoint_path
        )));
    }
    if let Some(path) = new.config.import_map_path.as_deref().filter(|path| !has(path)) {
        return Err(Fault::bad_request(format!(
            "import_map_path: {path:?} is not among the files"
        )));
    }
    let mut problems = Vec::new();
    for (path, content) in &new.files {
        problems.extend(find_leaks(content).into_iter().map(|leak| {
            let message = format!("{path}:{}: holds {}", leak.line, leak.kind.name());
            json!({ "path": Cow::from(path), "message": message })
        }));
    }
    problems.truncate(LEAKS_TOLD);
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Fault::leaks(problems)),
    }
}
