//! A Postgres that offers TLS, with an authority of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::TestCluster;
use crate::database::connect;

/// The name that the server's certificate is for.
pub const TLS_NAME: &str = "localhost";

/// A server whose certificate is for `localhost`, not for `127.0.0.1`, and is signed by an authority that only its file
/// makes known.
#[derive(Debug)]
pub struct TlsCluster {
    pub cluster: TestCluster,
    /// The authority's certificate in PEM.
    pub root: PathBuf,
    /// The certificate of an authority that has signed nothing.
    pub other_root: PathBuf,
    _folder: TempDir,
}

impl TlsCluster {
    /// Starts one. `None` when the server's programs were built without TLS.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start() -> Option<Self> {
        Self::try_start()
            .await
            .unwrap_or_else(|error| panic!("failed to start a server with TLS: {error:#}"))
    }

    /// Where to connect under a host's name, with these parameters.
    pub fn url(&self, host: &str, parameters: &str) -> String {
        format!(
            "postgres://postgres@{host}:{}/postgres?{parameters}",
            self.cluster.port()
        )
    }

    async fn try_start() -> Result<Option<Self>> {
        let cluster = TestCluster::private().await;
        let client = connect(&cluster.url("postgres")).await;
        let data_dir: String = client.query_one("show data_directory", &[]).await?.get(0);
        let folder = TempDir::new()?;
        let issuer = authority("the test's authority")?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![TLS_NAME.to_owned()])?.signed_by(&key, &issuer)?;
        place(&data_dir, "server.crt", &certificate.pem())?;
        place(&data_dir, "server.key", &key.serialize_pem())?;
        let (root, other_root) = (folder.path().join("root.pem"), folder.path().join("other.pem"));
        fs::write(&root, issuer.pem())?;
        fs::write(&other_root, authority("another authority")?.pem())?;
        if let Err(error) = client.execute("alter system set ssl = on", &[]).await {
            let unsupported = error
                .as_db_error()
                .is_some_and(|e| e.message().contains("not supported"));
            return if unsupported { Ok(None) } else { Err(error.into()) };
        }
        client.execute("select pg_reload_conf()", &[]).await?;
        // The reload is asynchronous: a new session is asked whether it has come through.
        while connect(&cluster.url("postgres"))
            .await
            .query_one("show ssl", &[])
            .await?
            .get::<_, String>(0)
            != "on"
        {
            tokio::task::yield_now().await;
        }
        Ok(Some(Self {
            cluster,
            root,
            other_root,
            _folder: folder,
        }))
    }
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// A file in the data folder, of the folder's owner and for that one alone.
fn place(data_dir: &str, name: &str, text: &str) -> Result<()> {
    let path = Path::new(data_dir).join(name);
    let owner = fs::metadata(data_dir)?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    chown(&path, Some(owner.uid()), Some(owner.gid()))?;
    Ok(())
}
