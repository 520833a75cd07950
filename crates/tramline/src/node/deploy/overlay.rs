//! What is deployed, laid over what a folder declares.

use std::collections::BTreeMap;
use std::sync::Arc;

use tramline_core::deploy::VersionConfig;
use tramline_host::{Deployed, Packages};
use tramline_store::function_versions::VersionRow;
use tramline_supabase::project::FunctionSource;

use super::settings::read_block;
use crate::node::project::Setup;
use crate::node::schemas;
use crate::output::hex;

/// The setup with deployed functions in the place of the folder's, and with secrets that win over the folder's.
pub fn lay(
    base: &Setup,
    active: &[VersionRow],
    secrets: &BTreeMap<String, String>,
    packages: Arc<dyn Packages>,
) -> Setup {
    let mut setup = base.clone();
    for (name, value) in secrets {
        let kept = &mut setup.project.config.edge_runtime.secrets;
        kept.insert(name.clone(), value.clone());
    }
    for version in active {
        let config: VersionConfig = match serde_json::from_value(version.config.clone()) {
            Ok(config) => config,
            Err(error) => {
                // of a newer tramline: this node goes on with what it has of this function
                setup.warnings.push(format!(
                    "function {} version {} is not understood: {error}",
                    version.name, version.version
                ));
                continue;
            }
        };
        let known = setup
            .project
            .functions
            .iter()
            .position(|source| source.name == version.name);
        if known.is_some() {
            setup.warnings.push(format!(
                "function {0} is served as deployed (version {1}), not from the folder; `tramline function delete {0}` goes back to the folder",
                version.name, version.version
            ));
        }
        let source = FunctionSource::deployed(&base.project.dir, &version.name, &config);
        match known {
            Some(at) => setup.project.functions[at] = source,
            None => setup.project.functions.push(source),
        }
        if let Some(block) = &config.settings {
            match read_block(&version.name, block) {
                Ok(settings) => {
                    setup.schemas.remove(&version.name);
                    // what cannot be compiled is an error of the block
                    if let Some(Ok(schema)) = settings
                        .schema
                        .as_ref()
                        .map(|named| schemas::compile(named, None))
                    {
                        setup.schemas.insert(version.name.clone(), Arc::new(schema));
                    }
                    setup.config.functions.insert(version.name.clone(), settings);
                }
                Err(details) => setup.warnings.push(format!(
                    "function {} version {}: its settings are not understood here: {}",
                    version.name,
                    version.version,
                    details.join("; ")
                )),
            }
        }
        let deployed = Deployed {
            version: version.version,
            key: hex(&version.sources_sha256),
            sha256: hex(&version.bundle_sha256),
            entry: config.entrypoint_path.into(),
            has_static_files: version.has_static_files,
            // for people only; what an older tramline wrote may be missing
            dependencies: Arc::new(serde_json::from_value(version.dependencies.clone()).unwrap_or_default()),
            packages: Arc::clone(&packages),
        };
        setup.deployed.insert(version.name.clone(), deployed);
    }
    setup.project.functions.sort_by(|a, b| a.name.cmp(&b.name));
    setup
}
