//! Making one file of a function, once per state of its sources.
//!
//! The bundler reads whatever a static import names, so it sees only a copy of the function's own files, an environment
//! without secrets, and it is bounded in time and output. Results are kept by a hash of everything that went in: a later
//! start reads the sources, finds the bundle, and needs neither Deno nor a network.

mod glob;
mod importmap;
mod lighten;
mod manifest;
mod npmrc;
mod plan;
mod rework;
mod rewrite;
mod run;
mod scan;
mod shelf;
mod shims;
mod twins;
mod upload;
mod version;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::sandbox::Sandbox;
use crate::types::FunctionSpec;
pub use manifest::{Dependency, NodeNames, Registry};
use plan::Plan;
use shelf::{find, place, private_folder, store};
pub use upload::{Bundled, SourceFiles, Upload, read_sources};

/// More at a time would only compete for the processors.
const BUNDLES_AT_ONCE: usize = 2;
/// Functions whose sources are read at one moment: a start with hundreds of them needs no thread for each.
const READS_AT_ONCE: usize = 4;

/// Why a function has no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("the entry file {} does not exist", .0.display())]
    NoEntry(PathBuf),
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {reason}", path.display())]
    ImportMap { path: PathBuf, reason: String },
    #[error("{} line {line}: {reason}", path.display())]
    Npmrc {
        path: PathBuf,
        /// From 1.
        line: usize,
        reason: String,
    },
    #[error("{} imports {specifier:?}, which is outside the project; import a file of the project or a package", file.display())]
    Outside { file: PathBuf, specifier: String },
    #[error("{} is not a source file of the project (it is outside, a link that leads outside, or a file of secrets)", path.display())]
    OutsideFile { path: PathBuf },
    #[error("{} imports {specifier:?}: {cause}", file.display())]
    Imported {
        file: PathBuf,
        specifier: String,
        cause: Box<BundleError>,
    },
    #[error("the function has more than {0} source files; check its imports")]
    TooManyFiles(usize),
    #[error("{what} are larger than {max_mb} MB")]
    TooBig { what: &'static str, max_mb: u64 },
    #[error("write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("run the bundler {}: {source}", deno.display())]
    Spawn { deno: PathBuf, source: std::io::Error },
    #[error("the bundler was stopped after {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("{output}")]
    Deno { output: String },
    /// The bundle of a deployed version could not be fetched, or is not what it should be.
    #[error("fetch version {version}: {reason}")]
    Version { version: i32, reason: String },
    #[error("{path} {fault}")]
    Path {
        path: String,
        fault: tramline_core::deploy::PathFault,
    },
    #[error("the import {specifier:?} in {} cannot be fetched, and it has no twin in the npm registry; use an npm: import instead\n{output}", file.display())]
    Fetch {
        specifier: String,
        file: PathBuf,
        output: String,
    },
    #[error("the import {specifier:?} in {} cannot be resolved: the npm registry has no {package}, cannot be reached from here, or wants another token (.npmrc)\n{output}", file.display())]
    Package {
        specifier: String,
        package: String,
        file: PathBuf,
        output: String,
    },
}

impl BundleError {
    fn imported_by(self, specifier: &str, file: &Path, project: &Path) -> BundleError {
        BundleError::Imported {
            file: project.join(file),
            specifier: specifier.to_owned(),
            cause: Box::new(self),
        }
    }
}

/// A function in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The JavaScript file.
    pub entry: PathBuf,
    /// SHA-256 (hex) of that file without the comment that names its source map.
    pub sha256: String,
    /// Static files lie around the entry as they do in the project.
    pub has_static_files: bool,
    /// The files it is made of, as they lie in the project.
    pub sources: Arc<BTreeSet<PathBuf>>,
    /// The packages in it, as they were resolved.
    pub dependencies: Arc<Vec<Dependency>>,
    /// The modules of Node that it names.
    pub node: NodeNames,
}

/// What there is of a function's bundle.
enum Looked {
    Made(Bundle),
    /// Nothing; the folder it is to lie in.
    New(PathBuf, Box<Plan>),
}

/// Makes and finds bundles.
#[derive(Debug)]
pub struct Bundler {
    deno: PathBuf,
    state_dir: PathBuf,
    project: PathBuf,
    timeout: Duration,
    children: TaskTracker,
    sandbox: Arc<Sandbox>,
    turns: Arc<Turns>,
}

/// Who bundles now.
#[derive(Debug)]
struct Turns {
    reads: Semaphore,
    any: Semaphore,
    /// Held by a bundling that may have to fetch esbuild: two at once get into each other's way.
    first: tokio::sync::Mutex<()>,
}

impl Bundler {
    /// Whether Deno has fetched its bundler before.
    fn has_esbuild(&self) -> bool {
        let fetched = std::fs::read_dir(self.state_dir.join("deno").join("dl"));
        fetched.is_ok_and(|mut entries| {
            entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("esbuild-")))
        })
    }
    /// `state_dir` and `project` are canonical.
    pub fn new(
        deno: PathBuf,
        state_dir: PathBuf,
        project: PathBuf,
        timeout: Duration,
        children: TaskTracker,
        sandbox: Arc<Sandbox>,
    ) -> Bundler {
        Bundler {
            deno,
            state_dir,
            project,
            timeout,
            children,
            sandbox,
            turns: Arc::new(Turns {
                reads: Semaphore::new(READS_AT_ONCE),
                any: Semaphore::new(BUNDLES_AT_ONCE),
                first: tokio::sync::Mutex::new(()),
            }),
        }
    }

    /// One for sources in another folder, which is canonical.
    fn of_project(&self, project: PathBuf) -> Bundler {
        Bundler {
            deno: self.deno.clone(),
            state_dir: self.state_dir.clone(),
            project,
            timeout: self.timeout,
            children: self.children.clone(),
            sandbox: Arc::clone(&self.sandbox),
            turns: Arc::clone(&self.turns),
        }
    }

    /// The folder of all bundles.
    pub fn folder(&self) -> PathBuf {
        self.state_dir.join("bundles")
    }

    /// The function's bundle, made if its sources are new.
    pub async fn bundle(self: &Arc<Self>, spec: &FunctionSpec) -> Result<Bundle, BundleError> {
        if let Some(deployed) = &spec.deployed {
            return version::bundle(self, &spec.name, deployed).await;
        }
        let (folder, plan) = match self.look(spec).await? {
            Looked::Made(bundle) => return Ok(bundle),
            Looked::New(folder, plan) => (folder, Arc::new(*plan)),
        };
        // an empty hash is as deep as any other
        let parent = place(&folder, &plan, "")
            .entry
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        let depth = parent
            .strip_prefix(&self.project)
            .ok()
            .map(|below| below.components().count());
        let (_stage, made) = self.make(&spec.name, &plan, depth).await?;
        let sandbox = Arc::clone(&self.sandbox);
        let bundle = blocking(move || {
            let bundle = store(&folder, &plan, &made)?;
            let shared = sandbox.share_tree(folder.parent().unwrap_or(&folder));
            shared.map_err(|source| BundleError::Write { path: folder, source })?;
            Ok(bundle)
        })
        .await?;
        tracing::info!(function = %spec.name, version = %bundle.sha256, "bundled");
        Ok(bundle)
    }

    /// Reads the function's sources, and whether their bundle was made before.
    async fn look(self: &Arc<Self>, spec: &FunctionSpec) -> Result<Looked, BundleError> {
        // the semaphore is never closed
        let _turn = self.turns.reads.acquire().await;
        let (this, spec) = (Arc::clone(self), spec.clone());
        blocking(move || {
            let plan = Plan::read(&this.project, &this.state_dir, &spec)?;
            let folder = private_folder(&this.folder().join(&spec.name))?;
            Ok(match find(&folder, &plan) {
                Some(bundle) => Looked::Made(bundle),
                None => Looked::New(folder, Box::new(plan)),
            })
        })
        .await
    }

    /// Runs the bundler on a copy of the sources: the copy, which goes away with its handle, and the bundle in it.
    async fn make(
        &self,
        name: &str,
        plan: &Arc<Plan>,
        depth: Option<usize>,
    ) -> Result<(Stage, run::Made), BundleError> {
        // the semaphore is never closed
        let _turn = self.turns.any.acquire().await;
        let stage = Stage(
            self.state_dir
                .join("stage")
                .join(format!("{name}-{:08x}", rand::random::<u32>())),
        );
        {
            let (plan, stage) = (Arc::clone(plan), stage.0.clone());
            blocking(move || run::stage(&plan, &stage)).await?;
        }
        let _alone = match self.has_esbuild() {
            true => None,
            false => Some(self.turns.first.lock().await),
        };
        let made = match run::run(self, plan, &stage.0, depth).await {
            // Two bundlers that fetch esbuild into an empty folder at once get into each other's way; the second try finds it.
            Err(BundleError::Deno { output }) if output.contains(ESBUILD_COPY) => {
                tracing::debug!(function = %name, "bundling once more: esbuild was being fetched by another");
                run::run(self, plan, &stage.0, depth).await?
            }
            made => made?,
        };
        Ok((stage, made))
    }

    async fn private_folder(&self, name: &str) -> Result<PathBuf, BundleError> {
        let folder = self.folder().join(name);
        blocking(move || private_folder(&folder)).await
    }
}

/// What Deno says when another of its processes has taken away the file that it was about to rename.
const ESBUILD_COPY: &str = "failed to copy esbuild binary";

/// A folder that goes away with its owner.
struct Stage(PathBuf);

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BundleError> + Send + 'static,
) -> Result<T, BundleError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(BundleError::Deno {
            output: format!("the bundling task ended: {error}"),
        }),
    }
}
