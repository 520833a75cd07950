use std::collections::BTreeMap;

use serde_json::json;
use tramline_supabase::Project;
use tramline_supabase::project::FunctionSource;

use crate::support::Folder;

fn function<'a>(project: &'a Project, name: &str) -> &'a FunctionSource {
    project
        .functions
        .iter()
        .find(|function| function.name == name)
        .unwrap()
}

#[test]
fn functions_are_folders_with_an_entry_file_and_blocks_in_the_configuration() {
    let folder = Folder::new(&[
        ("supabase/functions/hello/index.ts", ""),
        ("supabase/functions/script/index.mjs", ""),
        ("supabase/functions/_shared/index.ts", ""),
        ("supabase/functions/no-entry/readme.md", ""),
        ("supabase/functions/1st/index.ts", ""),
        ("supabase/functions/off/index.ts", ""),
        ("supabase/other/main.ts", ""),
        (
            "supabase/config.toml",
            "[functions.off]\nenabled = false\n[functions.declared]\nentrypoint = './other/main.ts'\nverify_jwt = false\n[functions.gone]\n",
        ),
    ]);
    let project = folder.project();
    let names: Vec<&str> = project
        .functions
        .iter()
        .map(|function| function.name.as_str())
        .collect();
    assert_eq!(names, ["declared", "gone", "hello", "script"]);
    assert_eq!(
        function(&project, "declared").entrypoint,
        folder.path().join("supabase/other/main.ts")
    );
    assert!(!function(&project, "declared").verify_jwt && function(&project, "hello").verify_jwt);
    let none = BTreeMap::new();
    assert_eq!(function(&project, "hello").broken(&none), None);
    let broken = function(&project, "gone").broken(&none).unwrap();
    assert!(
        broken.contains("functions/gone/index.ts does not exist (supabase/config.toml:6)"),
        "{broken}"
    );
    let warnings: Vec<String> = project.warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings
            .iter()
            .any(|w| w.contains("1st: the folder is not served: \"1st\" is no function name")),
        "{warnings:?}"
    );
    assert!(
        warnings
            .iter()
            .any(|w| w.ends_with("config.toml:1: Skipped serving Function: off")),
        "{warnings:?}"
    );
}

#[test]
fn import_maps_follow_the_documented_precedence() {
    let folder = Folder::new(&[
        (
            "supabase/config.toml",
            "[functions.a]\nimport_map = './maps/a.json'\n",
        ),
        ("supabase/maps/a.json", "{}"),
        ("supabase/functions/a/index.ts", ""),
        ("supabase/functions/a/deno.json", "{}"),
        ("supabase/functions/b/index.ts", ""),
        ("supabase/functions/b/deno.json", "{}"),
        ("supabase/functions/b/deno.jsonc", "{}"),
        ("supabase/functions/c/index.ts", ""),
        ("supabase/functions/c/deno.jsonc", "{}"),
        ("supabase/functions/c/import_map.json", "{}"),
        ("supabase/functions/d/index.ts", ""),
        ("supabase/functions/d/import_map.json", "{}"),
        ("supabase/functions/e/index.ts", ""),
        ("supabase/functions/e/package.json", "{}"),
        ("supabase/functions/import_map.json", "{}"),
    ]);
    let project = folder.project();
    let base = folder.path().join("supabase");
    let map = |name: &str| {
        let path = function(&project, name).import_map.clone().unwrap();
        path.strip_prefix(&base).unwrap().display().to_string()
    };
    assert_eq!(map("a"), "maps/a.json");
    assert_eq!(map("b"), "functions/b/deno.json");
    assert_eq!(map("c"), "functions/c/deno.jsonc");
    assert_eq!(map("d"), "functions/d/import_map.json");
    assert_eq!(map("e"), "functions/import_map.json");
    assert_eq!(function(&project, "e").package_json, None);
    let warnings: Vec<String> = project.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("Functions using deprecated import_map.json (please migrate to deno.json)"));
    assert!(warnings[1].contains("Functions using fallback import map: e"));
}

#[test]
fn package_json_counts_only_without_an_import_map() {
    let folder = Folder::new(&[
        ("supabase/functions/a/index.ts", ""),
        ("supabase/functions/a/package.json", "{}"),
    ]);
    let project = folder.project();
    assert!(function(&project, "a").package_json.is_some());
}

#[test]
fn a_missing_import_map_breaks_that_function_only() {
    let folder = Folder::new(&[
        (
            "supabase/config.toml",
            "[functions.a]\nimport_map = './nowhere.json'\n",
        ),
        ("supabase/functions/a/index.ts", ""),
        ("supabase/functions/b/index.ts", ""),
    ]);
    let project = folder.project();
    assert!(
        function(&project, "a")
            .broken(&BTreeMap::new())
            .unwrap()
            .contains("nowhere.json does not exist")
    );
    assert_eq!(function(&project, "b").broken(&BTreeMap::new()), None);
}

#[test]
fn names_in_env_example_without_a_value_are_required() {
    let folder = Folder::new(&[
        (
            "supabase/functions/.env.example",
            "# all\nSHARED_KEY=\nWITH_DEFAULT=x\n",
        ),
        ("supabase/functions/a/index.ts", ""),
        ("supabase/functions/a/.env.example", "\nONLY_A=\nSHARED_KEY=\n"),
        ("supabase/functions/b/index.ts", ""),
    ]);
    let project = folder.project();
    let env = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    assert_eq!(
        function(&project, "a").broken(&env(&[])).unwrap(),
        "missing environment: SHARED_KEY (supabase/functions/.env.example:2), ONLY_A (supabase/functions/a/.env.example:2) \
         has no value; set it in supabase/functions/.env"
    );
    assert!(
        function(&project, "b")
            .broken(&env(&[("SHARED_KEY", "")]))
            .is_some()
    );
    assert_eq!(function(&project, "b").broken(&env(&[("SHARED_KEY", "v")])), None);
    assert_eq!(
        function(&project, "a").broken(&env(&[("SHARED_KEY", "v"), ("ONLY_A", "w")])),
        None
    );
}

#[test]
fn static_files_are_expanded() {
    let folder = Folder::new(&[
        (
            "supabase/config.toml",
            "[functions.a]\nstatic_files = ['./functions/a/*.html', './functions/a/**/*.css', './functions/a/x.png']\n",
        ),
        ("supabase/functions/a/index.ts", ""),
        ("supabase/functions/a/one.html", ""),
        ("supabase/functions/a/deep/er/two.css", ""),
        ("supabase/functions/a/top.css", ""),
    ]);
    let project = folder.project();
    let base = folder.path().join("supabase/functions/a");
    let files: Vec<String> = function(&project, "a")
        .static_files
        .iter()
        .map(|path| path.strip_prefix(&base).unwrap().display().to_string())
        .collect();
    assert_eq!(files, ["one.html", "deep/er/two.css", "top.css"]);
    assert!(
        project.warnings[0]
            .to_string()
            .contains("no file matches \"./functions/a/x.png\"")
    );
}

#[test]
fn workflows_and_schedules_are_read_from_json_and_toml() {
    let folder = Folder::new(&[
        ("tramline/workflows/a.json", r#"{"name":"a","steps":[]}"#),
        (
            "tramline/workflows/b.toml",
            "name = 'b'\n[[steps]]\nname = 's'\nfunction = 'f'\n",
        ),
        ("tramline/workflows/readme.md", ""),
        (
            "tramline/schedules/nightly.toml",
            "cron = '0 3 * * *'\ntimezone = 'Europe/Berlin'\ntarget = 'a'\n[input]\nx = 1\n",
        ),
        (
            "tramline/schedules/minute.json",
            r#"{"name":"every-minute","cron":"* * * * *","target":"f","enabled":false}"#,
        ),
        ("tramline/calendars/holidays.toml", "exclude = ['12-25']"),
    ]);
    let project = folder.project();
    assert_eq!(
        project.workflows[0].definition,
        json!({ "name": "a", "steps": [] })
    );
    assert_eq!(
        project.workflows[1].definition,
        json!({ "name": "b", "steps": [{ "name": "s", "function": "f" }] })
    );
    assert_eq!(project.workflows.len(), 2);
    let minute = &project.schedules[0];
    assert_eq!(
        (minute.name.as_str(), &minute.document["enabled"]),
        ("every-minute", &json!(false))
    );
    let nightly = &project.schedules[1];
    assert_eq!(nightly.name, "nightly");
    assert_eq!(
        nightly.document,
        json!({ "cron": "0 3 * * *", "timezone": "Europe/Berlin", "target": "a", "input": { "x": 1 } })
    );
    assert_eq!(project.calendars[0].name, "holidays");
}

#[test]
fn broken_definition_files_are_errors_with_place() {
    for (files, expected) in [
        (
            vec![("tramline/workflows/a.json", "{\n \"name\": }")],
            "a.json:2: ",
        ),
        (vec![("tramline/calendars/a.toml", "exclude = [")], "a.toml:1: "),
        (
            vec![
                ("tramline/schedules/a.json", r#"{"name":"b"}"#),
                ("tramline/schedules/b.json", "{}"),
            ],
            "b.json: the name \"b\" is also used by ",
        ),
    ] {
        let folder = Folder::new(&files);
        let error = Project::discover(&folder.path(), &BTreeMap::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{files:?}: {error}");
    }
}

#[test]
fn a_folder_without_a_project_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Project::discover(dir.path(), &BTreeMap::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("holds neither supabase/ nor tramline/"), "{error}");
    let error = Project::discover(&dir.path().join("nowhere"), &BTreeMap::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not a folder"), "{error}");
}
