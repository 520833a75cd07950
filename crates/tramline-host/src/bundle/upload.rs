//! Sources on their way: read where they are written, bundled where they are deployed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tramline_core::deploy::{PathFault, check_path, check_paths};

use super::manifest::Dependency;
use super::plan::Plan;
use super::shelf::BUNDLE_MAX_BYTES;
use super::{BundleError, Bundler, Stage, blocking};
use crate::types::FunctionSpec;

/// The files that a function is made of, as they lie in the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFiles {
    /// All of them, import maps and static files too; paths are relative to the project.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    pub entrypoint: PathBuf,
    pub import_map: Option<PathBuf>,
    /// Those that are read at run time.
    pub static_files: Vec<PathBuf>,
}

/// Reads what has to be uploaded of a function: its import graph within the project, import maps and static files. Blocks.
///
/// # Errors
/// As when it is bundled: a file that is missing, outside the project, a file of secrets, too much.
pub fn read_sources(
    project: &Path,
    state_dir: &Path,
    spec: &FunctionSpec,
) -> Result<SourceFiles, BundleError> {
    let plan = Plan::read(project, state_dir, spec)?;
    let mut files = plan.files;
    for path in &plan.maps {
        let read = std::fs::read(project.join(path)).map_err(|source| BundleError::Read {
            path: project.join(path),
            source,
        })?;
        files.insert(path.clone(), read);
    }
    let static_files = plan.static_files.keys().cloned().collect();
    files.extend(plan.static_files);
    Ok(SourceFiles {
        files,
        entrypoint: plan.entry,
        // the function's own is read last
        import_map: plan.maps.last().cloned(),
        static_files,
    })
}

/// Uploaded sources of one function; all paths are relative to the project.
#[derive(Debug, Clone)]
pub struct Upload {
    pub name: String,
    pub files: BTreeMap<String, Vec<u8>>,
    pub entrypoint: String,
    pub import_map: Option<String>,
    /// Files, or patterns of files, that the function reads at run time.
    pub static_patterns: Vec<String>,
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundled {
    pub bundle: Vec<u8>,
    pub sha256: [u8; 32],
    /// The uploaded files that are read at run time.
    pub static_files: BTreeSet<String>,
    /// The packages in the bundle, as they were resolved.
    pub dependencies: Vec<Dependency>,
}

impl Bundler {
    /// Bundles uploaded sources.
    pub async fn upload(&self, upload: Upload) -> Result<Bundled, BundleError> {
        let folder =
            self.state_dir
                .join("uploads")
                .join(format!("{}-{:08x}", upload.name, rand::random::<u32>()));
        let root = Stage(folder.clone());
        let bundler = self.of_project(folder.clone());
        let bundled = bundler.bundle_files(upload).await;
        drop(root);
        // the client knows nothing of the folders here
        bundled.map_err(|error| without_folder(error, &folder))
    }

    async fn bundle_files(self, upload: Upload) -> Result<Bundled, BundleError> {
        let (project, state_dir) = (self.project.clone(), self.state_dir.clone());
        let name = upload.name.clone();
        let plan = blocking(move || {
            check(&upload)?;
            write(&project, &upload.files)?;
            let spec = spec(&project, &upload);
            Plan::read(&project, &state_dir, &spec)
        });
        let plan = Arc::new(plan.await?);
        // far from the project, no source map would lead to the sources
        let (_stage, made) = self.make(&name, &plan, None).await?;
        blocking(move || {
            let bundle = std::fs::read(&made.file).map_err(|source| BundleError::Read {
                path: made.file,
                source,
            })?;
            if bundle.len() as u64 > BUNDLE_MAX_BYTES {
                return Err(BundleError::TooBig {
                    what: "the bundle's bytes",
                    max_mb: BUNDLE_MAX_BYTES >> 20,
                });
            }
            let static_files = plan.static_files.keys();
            Ok(Bundled {
                sha256: Sha256::digest(&bundle).into(),
                bundle,
                dependencies: made.dependencies,
                static_files: static_files
                    .map(|path| path.to_string_lossy().into_owned())
                    .collect(),
            })
        })
        .await
    }
}

fn spec(project: &Path, upload: &Upload) -> FunctionSpec {
    FunctionSpec {
        name: upload.name.clone(),
        entrypoint: project.join(&upload.entrypoint),
        import_map: upload.import_map.as_ref().map(|path| project.join(path)),
        static_files: upload.static_patterns.iter().map(PathBuf::from).collect(),
        ..FunctionSpec::default()
    }
}

/// Nothing may be written or read outside the upload's own folder.
fn check(upload: &Upload) -> Result<(), BundleError> {
    let refused = |(path, fault): (&str, PathFault)| BundleError::Path {
        path: path.to_owned(),
        fault,
    };
    check_paths(upload.files.keys().map(String::as_str)).map_err(refused)?;
    let named = [&upload.entrypoint].into_iter().chain(&upload.import_map);
    for path in named.chain(&upload.static_patterns) {
        check_path(path).map_err(|fault| refused((path, fault)))?;
    }
    Ok(())
}

fn write(root: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<(), BundleError> {
    for (path, content) in files {
        let path = root.join(path);
        let folder = path.parent().unwrap_or(root);
        let failed = |source| BundleError::Write {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        std::fs::write(&path, content).map_err(failed)?;
    }
    Ok(())
}

fn without_folder(error: BundleError, folder: &Path) -> BundleError {
    let (within, alone) = (format!("{}/", folder.display()), folder.display().to_string());
    match error {
        // what the machine lacks is for its operator
        BundleError::Write { .. } | BundleError::Read { .. } | BundleError::Spawn { .. } => error,
        other => BundleError::Deno {
            output: other
                .to_string()
                .replace(&within, "")
                .replace(&alone, "the project"),
        },
    }
}
