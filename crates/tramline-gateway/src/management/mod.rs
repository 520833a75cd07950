//! `/v1`: the part of the platform's management API that deploying needs, and what it lacks (versions, tokens).
//!
//! The platform's command line speaks it. Callers show an access token or the service role; only the latter makes tokens.

mod bodies;
mod described;
mod functions;
mod secrets;
mod tokens;
mod upload;

use http::{Request, Response, StatusCode};
use sha2::{Digest, Sha256};
use tramline_core::deploy::{ACCESS_TOKEN_PREFIX, is_access_token};

use self::bodies::Project;
use crate::api::{json_answer, percent_decode};
use crate::auth::{AuthFailure, Credentials, bearer};
use crate::body::Body;
use crate::deployments::Deployments;
use crate::error::{Code, Fault};

/// The prefix of all routes.
pub(crate) const PREFIX: &str = "/v1";

/// Uploads that are held in memory at once; the others wait before their bodies are read.
pub(crate) const UPLOADS_AT_ONCE: usize = 2;

#[derive(Debug, Clone, Copy)]
enum Does {
    Projects,
    Project,
    Functions,
    Activate,
    Deploy,
    Function,
    Sources,
    Versions,
    RollBack,
    Delete,
    CreateEszip,
    UpdateEszip,
    Secrets,
    SetSecrets,
    UnsetSecrets,
    Tokens,
    CreateToken,
    RevokeToken,
}

/// One route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    /// The method.
    pub(crate) method: &'static str,
    /// The path after the prefix, `{}` for one segment.
    pub(crate) pattern: &'static str,
    does: Does,
}

const fn route(method: &'static str, pattern: &'static str, does: Does) -> Route {
    Route {
        method,
        pattern,
        does,
    }
}

/// All routes. Exact segments stand before those with a name.
pub(crate) const ROUTES: &[Route] = &[
    route("GET", "/projects", Does::Projects),
    route("GET", "/projects/{}", Does::Project),
    route("GET", "/projects/{}/functions", Does::Functions),
    route("PUT", "/projects/{}/functions", Does::Activate),
    route("POST", "/projects/{}/functions", Does::CreateEszip),
    route("POST", "/projects/{}/functions/deploy", Does::Deploy),
    route("GET", "/projects/{}/functions/{}", Does::Function),
    route("DELETE", "/projects/{}/functions/{}", Does::Delete),
    route("PATCH", "/projects/{}/functions/{}", Does::UpdateEszip),
    route("GET", "/projects/{}/functions/{}/body", Does::Sources),
    route("GET", "/projects/{}/functions/{}/versions", Does::Versions),
    route("POST", "/projects/{}/functions/{}/rollback", Does::RollBack),
    route("GET", "/projects/{}/secrets", Does::Secrets),
    route("POST", "/projects/{}/secrets", Does::SetSecrets),
    route("DELETE", "/projects/{}/secrets", Does::UnsetSecrets),
    route("GET", "/projects/{}/tokens", Does::Tokens),
    route("POST", "/projects/{}/tokens", Does::CreateToken),
    route("DELETE", "/projects/{}/tokens/{}", Does::RevokeToken),
];

/// A verified call.
pub(crate) struct ManagementCall<'a> {
    deployments: &'a dyn Deployments,
    /// Who is written down as having done it.
    actor: String,
    is_service: bool,
}

impl ManagementCall<'_> {
    /// For what a token may not do: making further ones would outlive its withdrawal.
    fn needs_service(&self) -> Result<(), Fault> {
        match self.is_service {
            true => Ok(()),
            false => Err(Fault::forbidden(
                "This needs the service role, not an access token",
            )),
        }
    }
}

/// Verifies the caller.
pub(crate) async fn authorize<'a>(
    deployments: &'a dyn Deployments,
    credentials: &Credentials,
    headers: &http::HeaderMap,
) -> Result<ManagementCall<'a>, Fault> {
    let refused = |failure: AuthFailure| {
        tracing::debug!(error = %failure, "refused a caller");
        Fault::auth(&failure)
    };
    let shown = bearer(headers).map_err(refused)?;
    if let Some(token) = shown.filter(|token| token.starts_with(ACCESS_TOKEN_PREFIX)) {
        let name = match is_access_token(token) {
            true => deployments
                .token(Sha256::digest(token.as_bytes()).into())
                .await
                .map_err(Fault::control)?,
            false => None,
        };
        let name = name.ok_or_else(Fault::access_token)?;
        return Ok(ManagementCall {
            deployments,
            actor: format!("token:{name}"),
            is_service: false,
        });
    }
    let caller = credentials.resolve(headers).map_err(refused)?;
    if !caller.is_service() {
        return Err(Fault::forbidden("This needs an access token or the service role"));
    }
    Ok(ManagementCall {
        deployments,
        actor: caller.role,
        is_service: true,
    })
}

/// Whether a request brings sources: those are large, and take turns.
pub(crate) fn is_upload(path: &str) -> bool {
    path.ends_with("/functions/deploy")
}

/// Answers one request whose caller is verified.
pub(crate) async fn handle(
    call: ManagementCall<'_>,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    let (does, names) = find(request.method().as_str(), path)?;
    let project = call.deployments.project().await.map_err(Fault::control)?;
    if names.first().is_some_and(|name| *name != project.reference) {
        return Err(Fault::new(
            Code::NotFound,
            format!(
                "This node serves project {}, not {:?}",
                project.reference, names[0]
            ),
        ));
    }
    let name = names.get(1).map(String::as_str).unwrap_or_default();
    match does {
        Does::Projects => json_answer(StatusCode::OK, &[Project::of(&project)]),
        Does::Project => json_answer(StatusCode::OK, &Project::of(&project)),
        Does::Functions => functions::list(&call).await,
        Does::Function => functions::get(&call, name).await,
        Does::Versions => functions::versions(&call, name).await,
        Does::Sources => functions::sources(&call, name, request).await,
        Does::Activate => functions::activate(&call, request).await,
        Does::RollBack => functions::roll_back(&call, name).await,
        Does::Delete => functions::delete(&call, name).await,
        Does::Deploy => upload::deploy(&call, request).await,
        Does::CreateEszip | Does::UpdateEszip => Err(Fault::eszip()),
        Does::Secrets => secrets::list(&call).await,
        Does::SetSecrets => secrets::set(&call, request).await,
        Does::UnsetSecrets => secrets::unset(&call, request).await,
        Does::Tokens => tokens::list(&call).await,
        Does::CreateToken => tokens::create(&call, request).await,
        Does::RevokeToken => tokens::revoke(&call, name).await,
    }
}

/// What to do, with the names in the path; 405 names the methods of the path.
fn find(method: &str, path: &str) -> Result<(Does, Vec<String>), Fault> {
    let mut allow: Vec<&str> = Vec::new();
    for route in ROUTES {
        let Some(names) = matches(route.pattern, path) else {
            continue;
        };
        if route.method == method {
            return Ok((route.does, names));
        }
        allow.push(route.method);
    }
    if allow.is_empty() {
        return Err(Fault::no_route());
    }
    Err(Fault::method_of_path(&allow.join(", ")))
}

fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(names),
            (Some("{}"), Some(segment)) if !segment.is_empty() => names.push(percent_decode(segment)?),
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}
