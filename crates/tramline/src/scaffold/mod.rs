//! New projects and functions from templates. What exists is never overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use tramline_core::limits::{FUNCTION_NAME_RULE, is_function_name};
use tramline_host::DENO_VERSION;

use crate::cli::Global;
use crate::deno::PIN_FILE;
use crate::exit::{Done, Exit, Failure};
use crate::output;
use crate::place::find_project;

/// One file: where it goes, what it says, and whether it is a program.
struct Template {
    path: &'static str,
    text: &'static str,
    is_program: bool,
}

const fn file(path: &'static str, text: &'static str) -> Template {
    Template {
        path,
        text,
        is_program: false,
    }
}

const CONFIG: &str = "supabase/config.toml";

/// What every project has.
const PROJECT: &[Template] = &[
    file(CONFIG, include_str!("templates/config.toml")),
    file("tramline.toml", include_str!("templates/tramline.toml")),
    file(PIN_FILE, "__DENO__\n"),
    file(
        ".github/workflows/edge-functions.yml",
        include_str!("templates/edge-functions.yml"),
    ),
    Template {
        path: "scripts/test-edge-function-local.sh",
        text: include_str!("templates/test-edge-function-local.sh"),
        is_program: true,
    },
];

/// What the folder of functions has; also made with the first function of a project that has none of it.
const FUNCTIONS: &[Template] = &[
    file(
        "supabase/functions/README.md",
        include_str!("templates/functions-README.md"),
    ),
    file(
        "supabase/functions/.env.example",
        include_str!("templates/env.example"),
    ),
    file(
        "supabase/functions/.gitignore",
        include_str!("templates/gitignore"),
    ),
];

/// What a function has.
const FUNCTION: &[Template] = &[
    file("index.ts", include_str!("templates/function/index.ts")),
    file("deno.json", include_str!("templates/function/deno.json")),
    file("README.md", include_str!("templates/function/README.md")),
    file(".env.example", include_str!("templates/function/env.example")),
];

/// Its block in config.toml.
const BLOCK: &str = include_str!("templates/function/block.toml");

/// Files that were made, and those that were there.
#[derive(Default)]
struct Report {
    created: Vec<String>,
    changed: Vec<String>,
    kept: Vec<String>,
}

impl Report {
    fn print(&self, global: &Global, next: &str) {
        if global.json {
            return output::json(
                &json!({ "created": self.created, "changed": self.changed, "kept": self.kept }),
            );
        }
        for (what, paths) in [
            ("created", &self.created),
            ("changed", &self.changed),
            ("kept   ", &self.kept),
        ] {
            for path in paths {
                output::line(&format!("{what}  {path}"));
            }
        }
        output::line(&format!("\n{next}"));
    }
}

/// `tramline init`.
pub fn init(global: &Global, path: Option<&Path>) -> Done {
    let here = Path::new(".");
    let dir = path.or(global.project.as_deref()).unwrap_or(here);
    fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    let dir = dir.canonicalize().map_err(|error| failed(dir, &error))?;
    let project = dir
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("project");
    let fill = |text: &str| {
        let name: String = project
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        text.replace("__PROJECT__", &name)
            .replace("__DENO__", DENO_VERSION)
    };
    let mut report = Report::default();
    for template in PROJECT.iter().chain(FUNCTIONS) {
        write(&dir, template.path, &fill(template.text), template, &mut report)?;
    }
    report.print(
        global,
        "Next: `tramline function new <name>`, then `tramline dev`.",
    );
    Ok(())
}

/// `tramline function new`.
pub fn new_function(global: &Global, name: &str) -> Done {
    if !is_function_name(name) {
        return Err(Failure::new(
            Exit::Usage,
            format!("failed to make the function {name:?}: use {FUNCTION_NAME_RULE}"),
        ));
    }
    let dir = find_project(global.project.as_deref())?;
    let folder = PathBuf::from("supabase/functions").join(name);
    if dir.join(&folder).exists() {
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "failed to make the function {name:?}: {} exists",
                folder.display()
            ),
        )
        .hint("Choose another name, or edit what is there."));
    }
    // read and checked before anything is made
    let config = with_block(&dir.join(CONFIG), name)?;
    let mut report = Report::default();
    for template in FUNCTIONS {
        write(&dir, template.path, template.text, template, &mut report)?;
    }
    report.kept.clear();
    for template in FUNCTION {
        let path = folder.join(template.path);
        let text = template.text.replace("__NAME__", name);
        write(&dir, &path.to_string_lossy(), &text, template, &mut report)?;
    }
    if let Some(text) = config {
        let path = dir.join(CONFIG);
        fs::write(&path, text).map_err(|error| failed(&path, &error))?;
        report.changed.push(CONFIG.to_owned());
    }
    report.print(
        global,
        &format!(
            "Next: edit {}/index.ts; a running `tramline dev` serves it already.",
            folder.display()
        ),
    );
    Ok(())
}

/// config.toml with the function's block at its end; none when it has one.
fn with_block(path: &Path, name: &str) -> Done<Option<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(path, &error)),
    };
    let parse = |text: &str| {
        text.parse::<toml::Table>().map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!(
                    "failed to read {}: {}",
                    path.display(),
                    error.to_string().trim_end()
                ),
            )
        })
    };
    let functions = parse(&text)?;
    let functions = functions
        .get("functions")
        .and_then(|functions| functions.get(name));
    if functions.is_some() {
        return Ok(None);
    }
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let changed = format!("{text}{end}{}", BLOCK.replace("__NAME__", name));
    // `functions = {…}` on one line takes no further table
    parse(&changed)?;
    Ok(Some(changed))
}

fn write(dir: &Path, path: &str, text: &str, template: &Template, report: &mut Report) -> Done {
    let full = dir.join(path);
    let made = || -> io::Result<bool> {
        if let Some(folder) = full.parent() {
            fs::create_dir_all(folder)?;
        }
        let mode = if template.is_program { 0o755 } else { 0o644 };
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&full);
        match opened {
            Ok(mut file) => file.write_all(text.as_bytes()).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    };
    match made() {
        Ok(true) => report.created.push(path.to_owned()),
        Ok(false) => report.kept.push(path.to_owned()),
        Err(error) => return Err(failed(&full, &error)),
    }
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Exit::Failure,
        format!("failed to write {}: {error}", path.display()),
    )
}
