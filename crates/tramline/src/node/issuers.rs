//! Issuers of tokens, and how their key sets are read: a file, or HTTPS without redirects and with a cap.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tramline_gateway::limits::KEY_SET_BYTES_MAX;
use tramline_gateway::{Issuer, KeySource};

use crate::config::{IssuerSettings, KeySetPlace};
use crate::exit::{Done, Exit, OrExit as _};

/// For the connection alone; the whole fetch is limited by the gateway.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The issuers that the settings name.
pub fn of(settings: &[IssuerSettings], project_dir: &Path) -> Done<Vec<Issuer>> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .no_proxy()
        .build()
        .or_exit(Exit::Failure)?;
    Ok(settings
        .iter()
        .map(|settings| Issuer {
            issuer: settings.issuer.clone(),
            audiences: settings.audiences.clone(),
            roles: settings.roles.clone(),
            keys: match &settings.keys {
                KeySetPlace::Url(url) => from_url(client.clone(), url.clone()),
                KeySetPlace::File(file) => from_file(project_dir.join(file)),
            },
        })
        .collect())
}

fn from_file(path: PathBuf) -> KeySource {
    Arc::new(move || {
        let path = path.clone();
        async move {
            tokio::fs::read(&path)
                .await
                .map_err(|error| format!("{}: {error}", path.display()))
        }
        .boxed()
    })
}

fn from_url(client: reqwest::Client, url: String) -> KeySource {
    Arc::new(move || -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let (client, url) = (client.clone(), url.clone());
        async move {
            let mut answer = client.get(&url).send().await.map_err(|error| error.to_string())?;
            if answer.status() != reqwest::StatusCode::OK {
                return Err(format!("{url} answered {}", answer.status()));
            }
            let mut bytes = Vec::new();
            while let Some(piece) = answer.chunk().await.map_err(|error| error.to_string())? {
                if bytes.len() + piece.len() > KEY_SET_BYTES_MAX {
                    return Err(format!("{url} answered more than {KEY_SET_BYTES_MAX} bytes"));
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        }
        .boxed()
    })
}
