//! The routes of the management API in words, for the OpenAPI document. The match is exhaustive: a route that is not
//! described does not compile.

use serde_json::json;

use super::bodies::{
    ActivateBody, Activated, CreatedToken, DeployForm, Done, Project, Revoked, SecretBody, TokenBody, Version,
};
use super::{Does, Route};
use crate::deployments::{AccessToken, SecretDigest};
use crate::error::Code;
use crate::openapi::kinds::Form;
use crate::openapi::operation::{Callers, Operation, Param, Tag};

impl Route {
    /// Who may call it.
    pub(crate) fn callers(&self) -> Callers {
        match self.does {
            Does::Tokens | Does::CreateToken | Does::RevokeToken => Callers::Operators,
            _ => Callers::Deployers,
        }
    }

    /// The route in words.
    pub(crate) fn describe(&self) -> Operation {
        match self.does {
            Does::Projects => Operation::new(
                Tag::Deployment,
                "listProjects",
                "List the projects of this node: there is one",
            )
            .gives::<Vec<Project<'static>>>(200, "The project"),
            Does::Project => Operation::new(Tag::Deployment, "getProject", "Look at the project")
                .at(project())
                .gives::<Project<'static>>(200, "The project"),
            Does::Functions => Operation::new(
                Tag::Deployment,
                "listDeployed",
                "List the active version of each deployed function",
            )
            .at(project())
            .gives::<Vec<Version<'static>>>(200, "By name"),
            Does::Function => Operation::new(
                Tag::Deployment,
                "getDeployed",
                "Look at the active version of a function",
            )
            .at(project())
            .at(slug())
            .gives::<Version<'static>>(200, "The version"),
            Does::Versions => {
                Operation::new(Tag::Deployment, "listVersions", "List the versions of a function")
                    .at(project())
                    .at(slug())
                    .gives::<Vec<Version<'static>>>(200, "The newest first")
            }
            Does::Deploy => deploy(),
            Does::Activate => activate(),
            Does::RollBack => Operation::new(
                Tag::Deployment,
                "rollBack",
                "Make the version active that was so before",
            )
            .at(project())
            .at(slug())
            .gives::<Version<'static>>(200, "The version that is active now")
            .fails(&[Code::Conflict, Code::InvalidInput]),
            Does::Delete => Operation::new(
                Tag::Deployment,
                "deleteFunction",
                "Forget a deployed function with all its versions",
            )
            .about("A function of that name in the node's folder comes back.")
            .at(project())
            .at(slug())
            .gives::<Done>(200, "It is gone"),
            Does::Sources => sources(),
            Does::CreateEszip => eszip("createFromBundle", "Refused: bundles are made here").at(project()),
            Does::UpdateEszip => eszip("updateFromBundle", "Refused: bundles are made here")
                .at(project())
                .at(slug()),
            Does::Secrets => Operation::new(
                Tag::Secrets,
                "listSecrets",
                "List secrets with the SHA-256 of their values",
            )
            .at(project())
            .gives::<Vec<SecretDigest>>(200, "By name"),
            Does::SetSecrets => Operation::new(Tag::Secrets, "setSecrets", "Set secrets, all or none")
                .at(project())
                .takes::<Vec<SecretBody>>(json!([{ "name": "MAIL_KEY", "value": "k-17" }]))
                .gives_nothing(201, "They are set on all nodes")
                .fails(&[Code::InvalidInput]),
            Does::UnsetSecrets => Operation::new(Tag::Secrets, "unsetSecrets", "Remove secrets")
                .about("Names that are not set are passed over.")
                .at(project())
                .takes::<Vec<String>>(json!(["MAIL_KEY"]))
                .gives_nothing(200, "They are gone on all nodes"),
            Does::Tokens => Operation::new(Tag::Tokens, "listTokens", "List access tokens, the newest first")
                .at(project())
                .gives::<Vec<AccessToken>>(200, "The tokens, without themselves"),
            Does::CreateToken => Operation::new(Tag::Tokens, "createToken", "Make an access token")
                .at(project())
                .takes::<TokenBody>(json!({ "name": "ci", "expires_in": 7_776_000 }))
                .gives::<CreatedToken>(201, "The only answer that ever holds the token"),
            Does::RevokeToken => {
                Operation::new(Tag::Tokens, "revokeToken", "Withdraw access tokens by name or id")
                    .at(project())
                    .at(Param::text("token", "Name or id of the token"))
                    .gives::<Revoked>(200, "They are refused from now on")
            }
        }
    }
}

fn project() -> Param {
    let mut param = Param::new(
        "ref",
        "The project's name of twenty letters",
        json!({ "type": "string", "pattern": "^[a-z]{20}$" }),
    );
    param.example = Some(json!("abcdefghijklmnopqrst"));
    param
}

fn slug() -> Param {
    Param::new(
        "slug",
        "Name of the function",
        json!({ "type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,62}$" }),
    )
}

fn deploy() -> Operation {
    let mut name = slug();
    name.required = true;
    Operation::new(Tag::Deployment, "deployFunction", "Upload the sources of a function")
        .about("The node bundles them and stores a version, which becomes active unless `bundleOnly`. The same sources are the same version.")
        .at(project())
        .query(name)
        .query(Param::new("bundleOnly", "Store the version and leave the active one", json!({ "type": "boolean" })))
        .takes_form::<DeployForm>()
        .gives::<Version<'static>>(201, "The version")
        .fails(&[Code::SecretInSources, Code::InvalidInput, Code::Conflict])
}

fn activate() -> Operation {
    Operation::new(
        Tag::Deployment,
        "activateVersions",
        "Make stored versions active, all or none",
    )
    .about("Answers when this node runs them; the others follow within moments.")
    .at(project())
    .takes::<Vec<ActivateBody>>(json!([{ "slug": "hello", "version": 3 }]))
    .gives::<Activated<'static>>(200, "The versions that are active now")
    .fails(&[Code::Conflict, Code::InvalidInput])
}

fn sources() -> Operation {
    Operation::new(
        Tag::Deployment,
        "downloadSources",
        "Download the sources of a version",
    )
    .at(project())
    .at(slug())
    .query(Param::new(
        "version",
        "The active one when not given",
        json!({ "type": "integer", "format": "int32", "minimum": 1 }),
    ))
    .gives_as::<Form>(
        200,
        "A part `metadata`, then one part `file` per file",
        &["multipart/form-data"],
    )
    .fails(&[Code::NotAcceptable])
}

fn eszip(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Tag::Deployment, id, summary)
        .about("Always answers 415: deploy with `--use-api`, which sends sources.")
        .fails(&[Code::UnsupportedMediaType])
}
