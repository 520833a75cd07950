//! Where bundles lie: a folder per function, by hash, each with what is known of it.
//!
//! `<hash>.js` (or a folder with the static files around it), `.js.map` beside it, `<hash>.json` with the packages that are
//! in it, and `<hash of the inputs>.inputs` that says which bundle they make.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::manifest::{Manifest, NodeNames};
use super::plan::Plan;
use super::run::Made;
use super::{Bundle, BundleError};

/// As on Supabase.
pub const BUNDLE_MAX_BYTES: u64 = 20 << 20;
/// Hexadecimal digits of 128 random bits.
const TOKEN_LEN: usize = 32;
const MAP_COMMENT: &[u8] = b"//# sourceMappingURL=";
/// Older bundles of a function that are kept: running instances may still load parts of them.
const KEPT_VERSIONS: usize = 5;

/// The folder of a function's bundles, with a name that nobody can guess. A generic worker may read every bundle that it
/// knows the name of, and a function with static files goes on to do so; the folder above cannot be listed.
pub fn private_folder(folder: &Path) -> Result<PathBuf, BundleError> {
    let failed = |source| BundleError::Write {
        path: folder.to_owned(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let is_token = |name: &str| name.len() == TOKEN_LEN && name.bytes().all(|b| b.is_ascii_hexdigit());
    let found = std::fs::read_dir(folder)
        .map_err(failed)?
        .flatten()
        .find(|entry| entry.file_name().to_str().is_some_and(is_token));
    let token = found.map_or_else(
        || format!("{:032x}", rand::random::<u128>()).into(),
        |e| e.file_name(),
    );
    let private = folder.join(token);
    std::fs::create_dir_all(&private).map_err(failed)?;
    Ok(private)
}

/// The file that says which bundle belongs to these inputs.
fn index(folder: &Path, plan: &Plan) -> PathBuf {
    folder.join(format!("{}.inputs", plan.key))
}

/// The bundle of these inputs, if it was made before.
pub fn find(folder: &Path, plan: &Plan) -> Option<Bundle> {
    let sha256 = std::fs::read_to_string(index(folder, plan)).ok()?;
    let mut bundle = place(folder, plan, sha256.trim());
    let known = Manifest::read(&manifest(folder, &bundle)).ok()?;
    bundle.dependencies = Arc::new(known.dependencies);
    bundle.node = known.node;
    bundle.entry.is_file().then_some(bundle)
}

/// The file that says what is in a bundle: named as the bundle, or as its folder.
fn manifest(folder: &Path, bundle: &Bundle) -> PathBuf {
    let below = bundle.entry.strip_prefix(folder).unwrap_or(&bundle.entry);
    let first = below.iter().next().unwrap_or_default();
    folder.join(first).with_extension("json")
}

/// Where a bundle lies. With static files it gets a folder of its own that mirrors the project.
pub fn place(folder: &Path, plan: &Plan, sha256: &str) -> Bundle {
    let has_static_files = !plan.static_files.is_empty();
    let entry = if has_static_files {
        folder
            .join(format!("{}-{}", sha256, &plan.key[..16]))
            .join(plan.entry.with_extension("js"))
    } else {
        folder.join(format!("{sha256}.js"))
    };
    Bundle {
        entry,
        sha256: sha256.to_owned(),
        has_static_files,
        sources: Arc::clone(&plan.sources),
        dependencies: Arc::default(),
        node: NodeNames::default(),
    }
}

/// Puts a bundle that was just made in its place.
pub fn store(folder: &Path, plan: &Plan, made: &Made) -> Result<Bundle, BundleError> {
    let dependencies = made.dependencies.clone();
    let made = made.file.as_path();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BundleError::Write { path, source }
    };
    let mut text = std::fs::read(made).map_err(failed(made))?;
    let map = made.with_extension("js.map");
    if map.is_file()
        && let Some(at) = text
            .windows(MAP_COMMENT.len())
            .rposition(|window| window == MAP_COMMENT)
    {
        text.truncate(at);
    }
    if text.len() as u64 > BUNDLE_MAX_BYTES {
        return Err(BundleError::TooBig {
            what: "the bundle's bytes",
            max_mb: BUNDLE_MAX_BYTES >> 20,
        });
    }
    let mut bundle = place(folder, plan, &hex::encode(Sha256::digest(&text)));
    let known = Manifest::of(dependencies, &text);
    bundle.node = known.node.clone();
    let parent = bundle.entry.parent().unwrap_or(folder);
    std::fs::create_dir_all(parent).map_err(failed(parent))?;
    if bundle.has_static_files {
        let root = parent
            .ancestors()
            .nth(plan.entry.components().count() - 1)
            .unwrap_or(parent)
            .to_owned();
        for (path, bytes) in &plan.static_files {
            let target = root.join(path);
            let folder = target.parent().unwrap_or(&root);
            std::fs::create_dir_all(folder).map_err(failed(folder))?;
            std::fs::write(&target, bytes).map_err(failed(&target))?;
        }
    }
    if map.is_file() {
        let kept = bundle.entry.with_extension("js.map");
        text.extend_from_slice(MAP_COMMENT);
        text.extend_from_slice(kept.file_name().unwrap_or_default().as_encoded_bytes());
        text.push(b'\n');
        std::fs::rename(&map, &kept).map_err(failed(&kept))?;
    }
    std::fs::write(made, &text).map_err(failed(made))?;
    std::fs::rename(made, &bundle.entry).map_err(failed(&bundle.entry))?;
    let manifest = manifest(folder, &bundle);
    known.write(&manifest).map_err(failed(&manifest))?;
    bundle.dependencies = Arc::new(known.dependencies);
    forget_old(folder);
    // last: whoever finds it finds a complete bundle
    let index = index(folder, plan);
    let fresh = index.with_extension("tmp");
    std::fs::write(&fresh, &bundle.sha256).map_err(failed(&fresh))?;
    std::fs::rename(&fresh, &index).map_err(failed(&index))?;
    Ok(bundle)
}

/// Removes all but the newest versions, and what belongs to them.
pub fn forget_old(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let is = |path: &Path, extension: &str| path.extension().is_some_and(|found| found == extension);
    let mut versions: Vec<_> = paths
        .iter()
        .filter(|path| is(path, "js") || path.is_dir())
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .collect();
    versions.sort();
    let surplus = versions.len().saturating_sub(KEPT_VERSIONS);
    let mut gone = BTreeSet::new();
    for (_, path) in versions.drain(..surplus) {
        let _ = if path.is_dir() {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        };
        for extension in ["js.map", "json"] {
            let _ = std::fs::remove_file(path.with_extension(extension));
        }
        // a folder's name goes on after the hash
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        gone.insert(name.split('-').next().unwrap_or_default().to_owned());
    }
    for path in paths.iter().filter(|path| is(path, "inputs")) {
        let sha256 = std::fs::read_to_string(path).unwrap_or_default();
        if gone.contains(sha256.trim()) {
            let _ = std::fs::remove_file(path);
        }
    }
}
