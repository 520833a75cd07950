//! The database's URL: where it is, and what it asks of TLS.
//!
//! `sslmode` and `sslrootcert` mean what they mean to libpq: `disable`, `prefer` (TLS if the server has it, nothing
//! verified; the default), `require` (TLS; verified as by `verify-ca` when a root certificate is given), `verify-ca` (a
//! known authority), `verify-full` (and the host's name). Without `sslrootcert`, or with `system`, the platform's
//! authorities are the known ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::StoreError;

/// Where the hosted platform's transaction pooler listens, and many others after it.
const POOLER_PORT: u16 = 6543;
const MODES: &str = "disable, allow, prefer, require, verify-ca, verify-full";

/// What a connection sends its bytes through.
pub type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// A database URL that was read.
#[derive(Clone)]
pub struct DatabaseUrl {
    /// Without what this type knows itself.
    pub config: Config,
    /// What a connection with this configuration is made with; it does nothing where no TLS is asked for.
    pub tls: MakeRustlsConnect,
    pooler: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verify {
    Nothing,
    Authority,
    AuthorityAndName,
}

impl DatabaseUrl {
    /// Reads it, and the root certificate that it names.
    ///
    /// # Errors
    /// When it is no URL of a database, asks for something unknown, or its root certificate cannot be read.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let options = Options::split(url)?;
        let mut config: Config = options.rest.parse().map_err(|e: tokio_postgres::Error| {
            let cause = std::error::Error::source(&e).map(ToString::to_string);
            refusal(format!(
                "the database URL: {}",
                cause.unwrap_or_else(|| e.to_string())
            ))
        })?;
        let has_root = options.root.is_some();
        let (mode, verify) = match options.mode.as_deref() {
            Some("disable") => (SslMode::Disable, Verify::Nothing),
            None | Some("allow" | "prefer") => (SslMode::Prefer, Verify::Nothing),
            Some("require") if has_root => (SslMode::Require, Verify::Authority),
            Some("require") => (SslMode::Require, Verify::Nothing),
            Some("verify-ca") => (SslMode::Require, Verify::Authority),
            Some("verify-full") => (SslMode::Require, Verify::AuthorityAndName),
            Some(other) => {
                return Err(refusal(format!(
                    "the database URL: sslmode={other} is unknown; use one of {MODES}"
                )));
            }
        };
        config.ssl_mode(mode);
        let pooler = match config.get_ports() {
            _ if options.pgbouncer => Some("pgbouncer=true".to_owned()),
            ports if ports.contains(&POOLER_PORT) => Some(format!("port {POOLER_PORT}")),
            _ => None,
        };
        let tls = MakeRustlsConnect::new(client_config(verify, options.root.as_deref())?);
        Ok(Self { config, tls, pooler })
    }

    /// Connects; the connection has to be polled.
    ///
    /// # Errors
    /// When the database cannot be reached, refuses, or cannot be trusted as the URL demands.
    pub async fn connect(&self) -> Result<(Client, Connection<Socket, TlsStream>), StoreError> {
        let connected = self.config.connect(self.tls.clone()).await;
        connected.map_err(|source| StoreError::Connect { source })
    }

    /// Why the URL looks like that of a transaction pooler, behind which sessions are not one's own.
    pub fn pooler_warning(&self) -> Option<String> {
        let sign = self.pooler.as_ref()?;
        Some(format!(
            "the database URL ({sign}) looks like that of a transaction pooler: prepared statements, session locks and listening \
             do not work through one; use the database's own port, or a pooler in session mode"
        ))
    }
}

fn refusal(reason: String) -> StoreError {
    StoreError::Config { reason }
}

/// The parameters that the driver does not know, and the URL without them.
struct Options {
    rest: String,
    mode: Option<String>,
    root: Option<PathBuf>,
    pgbouncer: bool,
}

impl Options {
    fn split(url: &str) -> Result<Self, StoreError> {
        let mut found = Self {
            rest: url.to_owned(),
            mode: None,
            root: None,
            pgbouncer: false,
        };
        let Some((base, query)) = url.split_once('?') else {
            return Ok(found);
        };
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match key {
                "sslmode" => found.mode = Some(value),
                "sslrootcert" => found.root = Some(PathBuf::from(value)),
                "pgbouncer" => found.pgbouncer = value != "false",
                "sslcert" | "sslkey" | "sslcrl" | "sslpassword" => {
                    return Err(refusal(format!(
                        "the database URL: {key} is not offered; log in with a password, and verify the server by sslrootcert"
                    )));
                }
                _ => kept.push(pair),
            }
        }
        found.rest = if kept.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", kept.join("&"))
        };
        Ok(found)
    }
}

fn client_config(verify: Verify, root: Option<&Path>) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match verify {
        Verify::Nothing => Arc::new(Unverified(provider.clone())),
        Verify::Authority | Verify::AuthorityAndName => {
            let roots = Arc::new(roots(root)?);
            let known = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|e| refusal(format!("certificates of authorities: {e}")))?;
            match verify {
                Verify::Authority => Arc::new(AnyName(known)),
                _ => known,
            }
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| refusal(format!("TLS: {e}")))?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// The authorities in a file, else the platform's.
fn roots(file: Option<&Path>) -> Result<RootCertStore, StoreError> {
    let mut store = RootCertStore::empty();
    match file.filter(|file| *file != Path::new("system")) {
        Some(file) => {
            let wrong = |reason: String| refusal(format!("sslrootcert {}: {reason}", file.display()));
            let certificates = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|e| wrong(e.to_string()))?;
            for certificate in certificates {
                store.add(certificate).map_err(|e| wrong(e.to_string()))?;
            }
            if store.is_empty() {
                return Err(wrong("it holds no certificate in PEM".into()));
            }
        }
        None => {
            // Some of a platform's files may be unreadable or odd; the others count.
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                return Err(refusal(
                    "this system has no certificates of authorities; install them (Debian: ca-certificates) or name a file by sslrootcert".into(),
                ));
            }
        }
    }
    Ok(store)
}

/// Encrypts without knowing to whom: what `prefer` and `require` ask for.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A known authority answers for the server, whatever the server is named.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The name is looked at last, when all else was in order.
        match self
            .0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
        {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "postgres://u:p@db.example:5432/app";

    fn mode(query: &str) -> SslMode {
        DatabaseUrl::parse(&format!("{BASE}{query}"))
            .unwrap()
            .config
            .get_ssl_mode()
    }

    fn refused(query: &str) -> String {
        match DatabaseUrl::parse(&format!("{BASE}{query}")) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{query} was accepted"),
        }
    }

    #[test]
    fn modes_are_those_of_libpq() {
        assert_eq!(mode(""), SslMode::Prefer);
        assert_eq!(mode("?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("?application_name=x&sslmode=allow"), SslMode::Prefer);
        assert_eq!(mode("?sslmode=require&connect_timeout=3"), SslMode::Require);
        let parsed = DatabaseUrl::parse(&format!("{BASE}?sslmode=require&application_name=mine")).unwrap();
        assert_eq!(parsed.config.get_application_name(), Some("mine"));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let cases = [
            (
                "?sslmode=full",
                "sslmode=full is unknown; use one of disable, allow, prefer",
            ),
            (
                "?sslmode=verify-full&sslrootcert=/no/such%20file.pem",
                "sslrootcert /no/such file.pem: ",
            ),
            (
                "?sslmode=verify-ca&sslrootcert=/dev/null",
                "sslrootcert /dev/null: it holds no certificate in PEM",
            ),
            (
                "?sslcert=/a.pem",
                "sslcert is not offered; log in with a password",
            ),
            ("?nonsense=1", "the database URL: unknown option `nonsense`"),
        ];
        for (query, expected) in cases {
            let said = refused(query);
            assert!(said.contains(expected), "{query}: {said}");
        }
    }

    #[test]
    fn transaction_poolers_are_warned_about() {
        let warning = |url: &str| DatabaseUrl::parse(url).unwrap().pooler_warning();
        assert_eq!(warning(BASE), None);
        assert_eq!(warning(&format!("{BASE}?pgbouncer=false")), None);
        assert!(
            warning(&format!("{BASE}?pgbouncer=true"))
                .unwrap()
                .contains("(pgbouncer=true)")
        );
        let pooled = warning("postgres://u@pool.example:6543/app").unwrap();
        assert!(
            pooled.contains("(port 6543) looks like that of a transaction pooler"),
            "{pooled}"
        );
    }
}
