//! A function's block of `tramline.toml`, which travels with its version.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{Config, FunctionSettings};
use crate::exit::{Done, Exit, Failure};

/// The block of a function in the project's `tramline.toml`, as TOML; none when it has none.
pub fn block_of(project: &Path, function: &str) -> Done<Option<String>> {
    let path = project.join("tramline.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::new(
                Exit::Usage,
                format!("failed to read {}: {error}", path.display()),
            ));
        }
    };
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Usage, format!("failed to read {}: {error}", path.display()))
    };
    let file: toml::Table = text.parse().map_err(|error| cannot(&error))?;
    let block = file
        .get("functions")
        .and_then(|functions| functions.get(function))
        .and_then(toml::Value::as_table);
    block
        .filter(|block| !block.is_empty())
        .map(|block| toml::to_string(block).map_err(|error| cannot(&error)))
        .transpose()
}

/// The settings in a block; the error holds what is wrong, with places.
pub fn read_block(function: &str, block: &str) -> Result<FunctionSettings, Vec<String>> {
    let wrong = |error: toml::de::Error| vec![error.message().to_owned()];
    let block: toml::Table = block.parse().map_err(wrong)?;
    let nested = |name: &str, table: toml::Table| toml::Table::from_iter([(name.to_owned(), table.into())]);
    let file = nested("functions", nested(function, block));
    // no environment: what was deployed is the same on every node
    let config = Config::parse(Path::new("settings"), &file.to_string(), &BTreeMap::new());
    match config {
        Ok(mut config) => Ok(config.functions.remove(function).unwrap_or_default()),
        Err(failure) if failure.details.is_empty() => Err(vec![failure.message]),
        Err(failure) => Err(failure.details),
    }
}

#[cfg(test)]
mod tests {
    use tramline_gateway::GuardAuth;

    use super::*;

    #[test]
    fn a_block_travels_and_is_read_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[functions.a]\nauth = \"public\"\nreason = \"a page\"\ntimeout_seconds = 5\n\n[functions.a.limit]\nconcurrency = 2\n\n[functions.b]\n";
        std::fs::write(dir.path().join("tramline.toml"), text).unwrap();
        let block = block_of(dir.path(), "a").unwrap().unwrap();
        let settings = read_block("a", &block).unwrap();
        assert_eq!(settings.auth, Some(GuardAuth::Public));
        assert_eq!(settings.timeout_seconds, Some(5));
        assert!(settings.limit.is_some());
        assert_eq!(block_of(dir.path(), "b").unwrap(), None);
        assert_eq!(block_of(dir.path(), "c").unwrap(), None);
    }

    #[test]
    fn a_block_that_cannot_work_says_where() {
        let wrong = read_block("a", "auth = \"everybody\"").unwrap_err();
        assert!(wrong[0].contains("auth"), "{wrong:?}");
        assert!(read_block("a", "auth = ").is_err());
        assert!(read_block("a", "[x]\ny = 1").is_err());
    }
}
