//! A function's block of `tramline.toml`, which travels with its version.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{Config, FunctionSettings, SchemaPlace};
use crate::exit::{Done, Exit, Failure};
use crate::node::schemas;

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
    let Some(block) = block.filter(|block| !block.is_empty()) else {
        return Ok(None);
    };
    let mut block = block.clone();
    bring_schemas(project, &mut block)
        .map_err(|problem| cannot(&format!("functions.{function}.schema: {problem}")))?;
    toml::to_string(&block).map(Some).map_err(|error| cannot(&error))
}

/// Puts schemas in the place of their files' names: other nodes do not have the files.
fn bring_schemas(project: &Path, block: &mut toml::Table) -> Result<(), String> {
    let Some(schema) = block.get_mut("schema").and_then(toml::Value::as_table_mut) else {
        return Ok(());
    };
    let bring = |place: &mut toml::Value| -> Result<(), String> {
        if let Some(file) = place.as_str() {
            let text = schemas::text(&SchemaPlace::File(file.to_owned()), Some(project))?;
            *place = toml::Table::from_iter([("inline".to_owned(), text.into())]).into();
        }
        Ok(())
    };
    schema.get_mut("file").map_or(Ok(()), bring)?;
    let actions = schema.get_mut("actions").and_then(toml::Value::as_table_mut);
    for (_, place) in actions.into_iter().flat_map(|actions| actions.iter_mut()) {
        bring(place)?;
    }
    Ok(())
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
        Ok(mut config) => {
            let settings = config.functions.remove(function).unwrap_or_default();
            if let Some(schema) = &settings.schema {
                schemas::compile(schema, None)?;
            }
            Ok(settings)
        }
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
    fn schemas_travel_with_the_block() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[functions.a.schema]\nfile = \"a.json\"\nactions = { b = \"b.json\" }\n";
        std::fs::write(dir.path().join("tramline.toml"), text).unwrap();
        let missing = block_of(dir.path(), "a").unwrap_err();
        assert!(
            missing.message.contains("functions.a.schema: a.json"),
            "{}",
            missing.message
        );
        std::fs::write(dir.path().join("a.json"), "{ \"type\": \"object\" }").unwrap();
        std::fs::write(dir.path().join("b.json"), "true").unwrap();
        let block = block_of(dir.path(), "a").unwrap().unwrap();
        let settings = read_block("a", &block).unwrap();
        assert!(schemas::compile(&settings.schema.unwrap(), None).is_ok());
        // one that does not travel, or cannot be used, is refused where it arrives
        let wrong = read_block("a", "schema = { file = \"a.json\" }").unwrap_err();
        assert!(wrong[0].contains("a.json has not come along"), "{wrong:?}");
        let wrong = read_block("a", "schema = { file = { inline = \"[]\" } }").unwrap_err();
        assert!(wrong[0].starts_with("inline: "), "{wrong:?}");
    }

    #[test]
    fn a_block_that_cannot_work_says_where() {
        let wrong = read_block("a", "auth = \"everybody\"").unwrap_err();
        assert!(wrong[0].contains("auth"), "{wrong:?}");
        assert!(read_block("a", "auth = ").is_err());
        assert!(read_block("a", "[x]\ny = 1").is_err());
    }
}
