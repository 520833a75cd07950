//! TLS to the database, as the URL asks for it.

use tramline_store::{Db, StoreError};
use tramline_testkit::{TLS_NAME, TlsCluster};

/// Whether a connection made by this URL is encrypted.
async fn is_encrypted(url: &str) -> Result<bool, StoreError> {
    let client = Db::new(url, 1)?.get().await?;
    let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let row = client.query_one(sql, &[]).await;
    Ok(row.map_err(|e| StoreError::query("ssl", e))?.get(0))
}

/// The error with its causes.
fn words(error: &StoreError) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}

#[tokio::test]
async fn sslmode_means_what_it_means_to_libpq() {
    let Some(server) = TlsCluster::start().await else {
        // These programs of Postgres know no TLS: then nothing but prefer and disable can work.
        return;
    };
    let (root, other) = (server.root.display(), server.other_root.display());
    for (host, parameters, expected) in [
        (TLS_NAME, "sslmode=disable".to_owned(), Ok(false)),
        (TLS_NAME, String::new(), Ok(true)),
        ("127.0.0.1", "sslmode=prefer".to_owned(), Ok(true)),
        ("127.0.0.1", "sslmode=require".to_owned(), Ok(true)),
        (
            TLS_NAME,
            format!("sslmode=require&sslrootcert={other}"),
            Err("UnknownIssuer"),
        ),
        (
            TLS_NAME,
            format!("sslmode=verify-ca&sslrootcert={root}"),
            Ok(true),
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-ca&sslrootcert={root}"),
            Ok(true),
        ),
        (
            TLS_NAME,
            format!("sslmode=verify-ca&sslrootcert={other}"),
            Err("UnknownIssuer"),
        ),
        (
            TLS_NAME,
            format!("sslmode=verify-full&sslrootcert={root}"),
            Ok(true),
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={root}"),
            Err("not valid for name"),
        ),
        (
            TLS_NAME,
            format!("sslmode=verify-full&sslrootcert={other}"),
            Err("UnknownIssuer"),
        ),
    ] {
        let url = server.url(host, &parameters);
        match (is_encrypted(&url).await, expected) {
            (Ok(encrypted), Ok(expected)) => assert_eq!(encrypted, expected, "{url}"),
            (Err(error), Err(expected)) => {
                assert!(words(&error).contains(expected), "{url}: {}", words(&error))
            }
            (done, expected) => panic!("{url}: {done:?}, expected {expected:?}"),
        }
    }
    // the whole schema, over an encrypted connection
    let url = server.url(TLS_NAME, &format!("sslmode=verify-full&sslrootcert={root}"));
    tramline_store::migrate(&url).await.unwrap();
}

#[tokio::test]
async fn a_server_without_tls_is_refused_when_tls_is_asked_for() {
    let db = tramline_testkit::empty_db().await;
    assert!(
        !is_encrypted(&format!("{}?sslmode=prefer", db.url()))
            .await
            .unwrap()
    );
    let error = is_encrypted(&format!("{}?sslmode=require", db.url()))
        .await
        .unwrap_err();
    assert!(
        words(&error).contains("server does not support TLS"),
        "{}",
        words(&error)
    );
}
