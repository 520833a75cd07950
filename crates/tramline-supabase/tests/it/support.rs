//! Databases, project folders and a small HTTP server in the gateway's place.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::Request;
use serde_json::Value;
use tramline_supabase::{Project, VerifiedClaims, surface};

/// A database of the test's own on the server that all tests share.
pub struct TestDb {
    pub url: String,
    _database: tramline_testkit::TestDb,
}

impl TestDb {
    /// With the store's schema and the surface, as a project's migrations find it.
    pub async fn new() -> Self {
        let db = Self::with_store().await;
        // Also what a copied database loses: its settings.
        surface::install(&db.url, surface::NewTables::Exposed)
            .await
            .unwrap();
        db
    }

    /// With the store's schema only.
    pub async fn with_store() -> Self {
        let migrate = async |url: String| -> anyhow::Result<()> {
            tramline_store::migrate(&url).await?;
            Ok(())
        };
        Self::of(tramline_testkit::test_db_with("store", migrate).await)
    }

    pub async fn empty() -> Self {
        Self::of(tramline_testkit::empty_db().await)
    }

    fn of(database: tramline_testkit::TestDb) -> Self {
        Self {
            url: database.url().to_owned(),
            _database: database,
        }
    }

    pub async fn run(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap();
    }

    /// The first column of the first row as text.
    pub async fn value(&self, sql: &str) -> Option<String> {
        let rows = self.client().await.simple_query(sql).await.unwrap();
        rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    }

    pub async fn client(&self) -> tokio_postgres::Client {
        tramline_testkit::connect(&self.url).await
    }
}

/// A project folder made of files, gone with the value.
pub struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(folder.path().join("supabase")).unwrap();
        for (path, text) in files {
            folder.write(path, text);
        }
        folder
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// As the project sees it: without symbolic links.
    pub fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub fn project(&self) -> Project {
        discover(&self.path())
    }
}

pub fn discover(dir: &Path) -> Project {
    Project::discover(dir, &BTreeMap::new()).unwrap()
}

/// Serve routes as the gateway does: nested, with the claims that the test puts into a header.
pub async fn serve(prefix: &str, routes: Router) -> String {
    let with_claims = axum::middleware::map_request(|mut request: Request| async move {
        if let Some(claims) = request.headers_mut().remove("x-test-claims") {
            let claims: Value = serde_json::from_slice(claims.as_bytes()).unwrap();
            request.extensions_mut().insert(VerifiedClaims(claims));
        }
        request
    });
    let app = Router::new().nest(prefix, routes).layer(with_claims);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}{prefix}")
}

/// All messages of an error and its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
