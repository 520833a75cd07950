//! What the project's folder holds of its functions.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use tramline_core::deploy::{VersionConfig, check_paths, find_leaks, sources_digest};
use tramline_host::{FunctionSpec, SourceFiles, read_sources};
use tramline_supabase::project::FunctionSource;

use crate::config::hint;
use crate::exit::{Done, Exit, Failure, chain};
use crate::node::deploy::block_of;
use crate::node::project::Setup;
use crate::output;

/// A function, ready to be uploaded.
pub struct LocalFunction {
    pub name: String,
    pub config: VersionConfig,
    /// Paths relative to the project.
    pub files: Vec<(String, Vec<u8>)>,
    /// Hexadecimal.
    pub sources_sha256: String,
}

impl LocalFunction {
    /// Of all files.
    pub fn bytes(&self) -> usize {
        self.files.iter().map(|(_, content)| content.len()).sum()
    }
}

/// The named functions, or all; every one that cannot be read is told.
pub fn read(setup: &Setup, names: &[String], state_dir: &Path) -> Done<Vec<LocalFunction>> {
    let known = &setup.project.functions;
    for name in names {
        if !known.iter().any(|source| source.name == *name) {
            let near = hint(name, known.iter().map(|source| source.name.as_str()));
            return Err(Failure::new(
                Exit::NotFound,
                format!("failed to deploy {name:?}: there is no function of this name{near}"),
            ));
        }
    }
    let wanted = known
        .iter()
        .filter(|source| names.is_empty() || names.contains(&source.name));
    let mut failure = Failure::new(Exit::Refused, "failed to read sources; nothing was uploaded");
    let mut functions = Vec::new();
    for source in wanted {
        match read_one(setup, source, state_dir) {
            Ok(function) => functions.push(function),
            Err(reason) => failure.details.push(format!("{}: {reason}", source.name)),
        }
    }
    match failure.details.is_empty() {
        true => Ok(functions),
        false => Err(failure),
    }
}

fn read_one(setup: &Setup, source: &FunctionSource, state_dir: &Path) -> Result<LocalFunction, String> {
    let project = &setup.project.dir;
    let spec = FunctionSpec {
        name: source.name.clone(),
        entrypoint: source.entrypoint.clone(),
        import_map: source.import_map.clone().or_else(|| source.package_json.clone()),
        static_files: source.static_files.clone(),
        ..FunctionSpec::default()
    };
    let sources = read_sources(project, state_dir, &spec).map_err(|error| chain(&error))?;
    let settings = block_of(project, &source.name).map_err(|failure| failure.message)?;
    let SourceFiles {
        files,
        entrypoint,
        import_map,
        static_files,
    } = sources;
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| format!("{}: the path is not in UTF-8", path.display()))
    };
    let config = VersionConfig {
        entrypoint_path: text(&entrypoint)?,
        import_map_path: import_map.as_deref().map(text).transpose()?,
        static_patterns: static_files
            .iter()
            .map(|path| text(path))
            .collect::<Result<_, _>>()?,
        verify_jwt: source.verify_jwt,
        settings,
    };
    let files = files
        .into_iter()
        .map(|(path, content)| Ok((text(&path)?, content)))
        .collect::<Result<Vec<_>, String>>()?;
    check_paths(files.iter().map(|(path, _)| path.as_str()))
        .map_err(|(path, fault)| format!("{path} {fault}"))?;
    let hashes = files
        .iter()
        .map(|(path, content)| (path.as_str(), Sha256::digest(content).into()));
    let digest = sources_digest(hashes, &config);
    Ok(LocalFunction {
        name: source.name.clone(),
        sources_sha256: output::hex(&digest),
        config,
        files,
    })
}

/// Credentials must not leave the machine inside sources; the node would refuse them too.
pub fn refuse_leaks(functions: &[LocalFunction]) -> Done {
    let mut found: Vec<String> = functions
        .iter()
        .flat_map(|function| &function.files)
        .flat_map(|(path, content)| {
            let leaks = find_leaks(content).into_iter();
            leaks.map(move |leak| format!("{path}:{}: holds {}", leak.line, leak.kind.name()))
        })
        .collect();
    found.sort();
    // shared files belong to several functions
    found.dedup();
    if found.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::new(
        Exit::Refused,
        "failed to deploy: sources hold credentials; nothing was uploaded",
    )
    .hint("Withdraw them, and read them from the environment: `supabase secrets set`, then Deno.env.get().");
    failure.details = found;
    Err(failure)
}
