//! From the store's rows and errors to the management API's.

use sha2::{Digest as _, Sha256};
use tramline_core::deploy::VersionConfig;
use tramline_gateway::control::{ControlError, Problem};
use tramline_host::BundleError;
use tramline_store::function_versions::VersionRow;

use super::service::Answered;
use crate::exit::chain;
use crate::node::control::convert;

pub(super) fn read_config(row: &VersionRow) -> Answered<VersionConfig> {
    serde_json::from_value(row.config.clone()).map_err(|error| ControlError::Internal {
        reason: format!(
            "configuration of {} version {} is not understood: {error}",
            row.name, row.version
        ),
    })
}

/// The same for all versions of a function, and for no other project's.
pub(super) fn id_of(reference: &str, name: &str) -> String {
    let hash = Sha256::digest(format!("{reference}/{name}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

pub(super) fn not_found(what: &'static str, name: &str) -> ControlError {
    ControlError::NotFound {
        what,
        name: name.to_owned(),
    }
}

pub(super) fn no_version(error: tramline_store::StoreError) -> ControlError {
    match error {
        tramline_store::StoreError::Refused { code, message, .. } if code == "TL404" => {
            not_found("such version:", &message)
        }
        other => convert::error(other),
    }
}

pub(super) fn refused(path: &str, messages: Vec<String>) -> ControlError {
    ControlError::InvalidInput {
        missing: Vec::new(),
        problems: messages
            .into_iter()
            .map(|message| Problem {
                path: path.to_owned(),
                message,
            })
            .collect(),
    }
}

/// What is wrong with the sources is told; what is wrong with this machine is logged.
pub(super) fn not_bundled(error: BundleError) -> ControlError {
    match error {
        BundleError::Write { .. } | BundleError::Read { .. } | BundleError::Spawn { .. } => {
            ControlError::Internal {
                reason: chain(&error),
            }
        }
        other => refused("bundle", vec![other.to_string()]),
    }
}
