//! A project in a temporary folder, and a host on it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tempfile::TempDir;
use tramline_host::{
    Body, CallContext, CallError, FunctionInfo, FunctionSpec, FunctionState, Host, HostConfig, Limits,
    LogLine,
};

/// Generous: two processors are shared with whatever else is being built.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The Deno that the crate itself installs.
pub fn deno() -> PathBuf {
    static DENO: OnceLock<PathBuf> = OnceLock::new();
    DENO.get_or_init(|| {
        let cache = tramline_host::default_cache_dir().unwrap();
        tramline_host::install_deno(&cache, &|line| eprintln!("{line}")).unwrap()
    })
    .clone()
}

pub struct Project {
    pub dir: TempDir,
    pub functions: Vec<FunctionSpec>,
    pub limits: Limits,
    pub own_addresses: Vec<IpAddr>,
}

impl Project {
    pub fn new() -> Project {
        let dir = TempDir::with_prefix("tl").unwrap();
        std::fs::create_dir_all(dir.path().join(".tramline")).unwrap();
        // another user may enter, so that functions get one of their own when the tests run as root
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        // the bundler's downloads are shared between tests
        let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deno");
        std::fs::create_dir_all(&shared).unwrap();
        std::os::unix::fs::symlink(shared, dir.path().join(".tramline/deno")).unwrap();
        let limits = Limits {
            spare_workers: 0,
            ..Limits::default()
        };
        Project {
            dir,
            functions: Vec::new(),
            limits,
            own_addresses: vec![Ipv4Addr::LOCALHOST.into()],
        }
    }

    /// A file of the project, by its path below `supabase/functions`.
    pub fn file(self, path: &str, text: &str) -> Project {
        self.write(path, text);
        self
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join("supabase/functions").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A function with one source file.
    pub fn function(self, name: &str, source: &str) -> Project {
        self.function_with(name, source, |_| {})
    }

    pub fn function_with(
        mut self,
        name: &str,
        source: &str,
        change: impl FnOnce(&mut FunctionSpec),
    ) -> Project {
        self = self.file(&format!("{name}/index.ts"), source);
        let mut spec = FunctionSpec {
            name: name.to_owned(),
            entrypoint: self
                .dir
                .path()
                .join(format!("supabase/functions/{name}/index.ts")),
            ..FunctionSpec::default()
        };
        change(&mut spec);
        self.functions.push(spec);
        self
    }

    pub fn env(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("supabase/functions").join(path)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join(".tramline")
    }

    pub async fn host(&self) -> Host {
        self.host_with_deno(deno()).await
    }

    pub async fn host_with_deno(&self, deno: PathBuf) -> Host {
        let config = HostConfig {
            state_dir: self.state_dir(),
            deno,
            project_dir: self.dir.path().to_owned(),
            limits: self.limits.clone(),
            max_spawns: 2,
            sandbox: tramline_host::SandboxConfig::default(),
            own_addresses: self.own_addresses.clone(),
        };
        let host = Host::start(config, self.functions.clone()).await.unwrap();
        within("the functions to settle", host.wait_settled()).await;
        host
    }

    /// Processes whose command line names this project.
    pub fn processes(&self) -> Vec<u32> {
        processes_naming(&self.dir.path().canonicalize().unwrap())
    }
}

pub fn processes_naming(path: &Path) -> Vec<u32> {
    let path = path.to_str().unwrap().as_bytes();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(path.len()).any(|window| window == path)
    })
    .collect()
}

pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// Polls until `check` gives a value.
pub async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn body(text: impl Into<Bytes>) -> Body {
    Body::new(Full::new(text.into()).map_err(|never| match never {}))
}

pub fn context() -> CallContext {
    CallContext {
        run_id: None,
        call_token: None,
        request_id: "req-1".into(),
        wall_ms: 30_000,
    }
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(path)
        .header("host", "api.local:54321")
        .body(body(""))
        .unwrap()
}

/// Calls with GET `/<name>` and reads the whole answer.
pub async fn call(host: &Host, name: &str) -> Result<(StatusCode, String), CallError> {
    let response = within("an answer", host.call(name, get(&format!("/{name}")), context())).await?;
    let status = response.status();
    Ok((status, text(response).await))
}

pub async fn text(response: Response<Body>) -> String {
    let bytes = within("a body", response.into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn ok(text: &str) -> Result<(StatusCode, String), CallError> {
    Ok((StatusCode::OK, text.to_owned()))
}

pub fn info(host: &Host, name: &str) -> FunctionInfo {
    host.functions()
        .into_iter()
        .find(|info| info.name == name)
        .unwrap()
}

pub fn reason(host: &Host, name: &str) -> String {
    match info(host, name).state {
        FunctionState::Broken { reason } => reason,
        state => panic!("{name} is {state:?}"),
    }
}

/// Waits for an entry with this text in its message.
pub async fn log_with(host: &Host, text: &str) -> LogLine {
    eventually(&format!("a log entry with {text:?}"), || {
        host.recent_logs(None, 5_000)
            .into_iter()
            .find(|line| line.message.contains(text))
    })
    .await
}

pub async fn stop(host: &Host) {
    within("the host to stop", host.stop(Duration::from_secs(1))).await;
}
