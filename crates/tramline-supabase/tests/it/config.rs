use std::collections::BTreeMap;
use std::path::Path;

use tramline_supabase::ProjectConfig;
use tramline_supabase::config::{ConfigEnv, EdgePolicy};

use crate::support::Folder;

fn read(text: &str) -> Result<(ProjectConfig, Vec<String>), String> {
    let env = ConfigEnv::default();
    let (config, warnings) = ProjectConfig::parse(Path::new("supabase/config.toml"), text, &env)
        .map_err(|error| error.to_string())?;
    Ok((config, warnings.iter().map(ToString::to_string).collect()))
}

#[test]
fn an_empty_file_has_the_platforms_defaults() {
    let (config, warnings) = read("").unwrap();
    assert_eq!(
        (config.api.port, config.db.port, config.api.max_rows),
        (54321, 54322, 1000)
    );
    assert_eq!(config.api.schemas, ["public", "graphql_public"]);
    assert_eq!(config.edge_runtime.policy, EdgePolicy::PerWorker);
    assert!(warnings.is_empty());
}

#[test]
fn known_keys_are_read() {
    let text = r#"
project_id = "shop"
[api]
port = 55_321
schemas = ["public", "api"]
max_rows = 50
[db.seed]
enabled = true
sql_paths = ["./seeds/*.sql"]
[auth]
site_url = "http://127.0.0.1:3000"
jwt_expiry = 60
enable_signup = true
[auth.email]
enable_confirmations = false
[edge_runtime]
policy = "oneshot"
[edge_runtime.secrets]
my_key = "abc"
[functions.hello-world]
verify_jwt = false
import_map = "./functions/hello-world/deno.json"
static_files = ["./functions/hello-world/*.html"]
[studio]
port = 1
[remotes.preview]
project_id = "x"
"#;
    let (config, warnings) = read(text).unwrap();
    assert_eq!(config.project_id.as_deref(), Some("shop"));
    assert_eq!((config.api.port, config.api.max_rows), (55321, 50));
    assert_eq!(config.db.seed_paths, ["./seeds/*.sql"]);
    assert_eq!(config.auth.jwt_expiry, Some(60));
    assert_eq!(config.edge_runtime.policy, EdgePolicy::Oneshot);
    assert_eq!(config.edge_runtime.secrets["MY_KEY"], "abc");
    let function = &config.functions["hello-world"];
    assert!(function.enabled && !function.verify_jwt);
    assert_eq!(function.line, 20);
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn unknown_keys_are_warnings_with_line_and_suggestion() {
    let (_, warnings) = read("[api]\nmax_row = 5\n[functions.a]\nverify_jwtt = true\n[apii]\n").unwrap();
    assert_eq!(
        warnings,
        [
            "supabase/config.toml:2: the key api.max_row is not known and is ignored; did you mean max_rows?",
            "supabase/config.toml:4: the key functions.a.verify_jwtt is not known and is ignored; did you mean verify_jwt?",
            "supabase/config.toml:5: the key apii is not known and is ignored; did you mean api?",
        ]
    );
}

#[test]
fn wrong_values_are_errors_with_place() {
    let cases = [
        (
            "[api]\nport = 70000",
            "supabase/config.toml:2: api.port must be a port number from 0 to 65535, but is 70000",
        ),
        (
            "[api]\n\nschemas = \"public\"",
            "supabase/config.toml:3: api.schemas must be a list of strings, but is \"public\"",
        ),
        ("api = 1", "supabase/config.toml:1: api must be a table, but is 1"),
        (
            "[edge_runtime]\npolicy = \"often\"",
            r#"supabase/config.toml:2: edge_runtime.policy must be "per_worker", "per_request" or "oneshot", but is "often""#,
        ),
        (
            "[functions.a]\nverify_jwt = \"yes\"",
            "supabase/config.toml:2: functions.a.verify_jwt must be true or false, but is \"yes\"",
        ),
        ("[functions.\"1a\"]\n", "\"1a\" is no function name"),
        ("[api]\nport = \n", "supabase/config.toml:2: "),
    ];
    for (text, expected) in cases {
        let error = read(text).unwrap_err();
        assert!(error.contains(expected), "{text:?} gave {error}");
    }
}

#[test]
fn env_references_are_resolved_in_the_documented_order() {
    let folder = Folder::new(&[
        (".env", "A=base\nB=base\nC=base\nD=base"),
        (".env.development", "A=stage\nB=stage\nC=stage"),
        (".env.local", "A=local\nB=local"),
        (".env.development.local", "A=both"),
        (
            "supabase/config.toml",
            "[edge_runtime.secrets]\nA = 'env(A)'\nB = 'env(B)'\nC = 'env(C)'\nD = 'env(D)'\nE = 'env(E)'\nF = 'env(F)'\n[api]\nport = 'env(PORT)'",
        ),
    ]);
    let process = BTreeMap::from([
        ("E".to_owned(), "process".to_owned()),
        ("PORT".to_owned(), "6000".to_owned()),
    ]);
    let project = tramline_supabase::Project::discover(&folder.path(), &process).unwrap();
    let secrets = &project.config.edge_runtime.secrets;
    let values: Vec<&str> = ["A", "B", "C", "D", "E"]
        .iter()
        .map(|name| secrets[*name].as_str())
        .collect();
    assert_eq!(values, ["both", "local", "stage", "base", "process"]);
    assert_eq!(project.config.api.port, 6000);
    assert!(!secrets.contains_key("F"));
    let warning = project.warnings[0].to_string();
    assert!(warning.ends_with("config.toml:7: edge_runtime.secrets.F is not set: env(F) is neither in the environment nor in a .env file of the project"), "{warning}");
}

#[test]
fn printing_the_configuration_shows_no_secret() {
    let (config, _) = read("[auth]\njwt_secret = 'do-not-show-this-value-at-all-please'\n[edge_runtime.secrets]\nA = 'hidden-too'").unwrap();
    let printed = format!("{config:?}");
    assert!(
        !printed.contains("do-not-show") && !printed.contains("hidden-too"),
        "{printed}"
    );
}
