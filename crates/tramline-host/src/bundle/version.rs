//! Deployed versions on this node's disk: fetched once, kept as long as bundles are kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tramline_core::deploy::check_paths;

use super::manifest::NodeNames;
use super::shelf::forget_old;
use super::{Bundle, BundleError, Bundler, blocking};
use crate::types::{Deployed, Package};

/// The version's bundle, fetched if it is not here.
pub(super) async fn bundle(
    bundler: &Arc<Bundler>,
    name: &str,
    deployed: &Deployed,
) -> Result<Bundle, BundleError> {
    let folder = bundler.private_folder(name).await?;
    let mut bundle = place(&folder, deployed);
    let entry = bundle.entry.clone();
    if let Some(node) = blocking(move || Ok(touch(&entry))).await? {
        bundle.node = node;
        return Ok(bundle);
    }
    let failed = |reason: String| BundleError::Version {
        version: deployed.version,
        reason,
    };
    let package = deployed
        .packages
        .fetch(name, deployed.version)
        .await
        .map_err(failed)?;
    if hex::encode(Sha256::digest(&package.bundle)) != deployed.sha256 {
        return Err(failed("its bundle is not the one that was deployed".to_owned()));
    }
    bundle.node = NodeNames::in_bundle(&package.bundle);
    let sandbox = Arc::clone(&bundler.sandbox);
    let (deployed, kept) = (deployed.clone(), bundle.clone());
    blocking(move || {
        store(&folder, &deployed, &package, &kept)?;
        let shared = sandbox.share_tree(folder.parent().unwrap_or(&folder));
        shared.map_err(|source| BundleError::Write { path: folder, source })
    })
    .await?;
    tracing::info!(function = %name, version = %bundle.sha256, "fetched");
    Ok(bundle)
}

/// Where it lies, or will. With static files it gets a folder of its own that mirrors the project.
fn place(folder: &Path, deployed: &Deployed) -> Bundle {
    let entry = match deployed.has_static_files {
        true => own_folder(folder, deployed).join(deployed.entry.with_extension("js")),
        false => folder.join(format!("{}.js", deployed.sha256)),
    };
    Bundle {
        entry,
        sha256: deployed.sha256.clone(),
        has_static_files: deployed.has_static_files,
        sources: Arc::default(),
        dependencies: Arc::clone(&deployed.dependencies),
        node: NodeNames::default(),
    }
}

fn own_folder(folder: &Path, deployed: &Deployed) -> PathBuf {
    let key: String = deployed.key.chars().take(16).collect();
    folder.join(format!("{}-{key}", deployed.sha256))
}

/// The modules of Node that it names, if it is here; then it counts as new, so that an old version that is active again is
/// kept.
fn touch(entry: &Path) -> Option<NodeNames> {
    // a file that cannot be opened is fetched again
    let file = std::fs::File::options().append(true).open(entry).ok()?;
    let _ = file.set_modified(SystemTime::now());
    Some(NodeNames::in_bundle(&std::fs::read(entry).ok()?))
}

fn store(folder: &Path, deployed: &Deployed, package: &Package, bundle: &Bundle) -> Result<(), BundleError> {
    let paths = package.static_files.iter().map(|(path, _)| path.as_str());
    check_paths(paths).map_err(|(path, fault)| BundleError::Path {
        path: path.to_owned(),
        fault,
    })?;
    let fresh = folder.join(format!("{:08x}.tmp", rand::random::<u32>()));
    let target = match deployed.has_static_files {
        true => own_folder(folder, deployed),
        false => bundle.entry.clone(),
    };
    let write = |path: &Path, content: &[u8]| {
        let failed = |source| BundleError::Write {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(failed)?;
        std::fs::write(path, content).map_err(failed)
    };
    if deployed.has_static_files {
        for (path, content) in &package.static_files {
            write(&fresh.join(path), content)?;
        }
        write(&fresh.join(deployed.entry.with_extension("js")), &package.bundle)?;
    } else {
        write(&fresh, &package.bundle)?;
    }
    // whoever finds it finds it whole
    let renamed = std::fs::rename(&fresh, &target);
    if let Err(source) = renamed
        && !bundle.entry.is_file()
    {
        return Err(BundleError::Write { path: target, source });
    }
    // left when another call was faster
    let _ = std::fs::remove_dir_all(&fresh);
    forget_old(folder);
    Ok(())
}
