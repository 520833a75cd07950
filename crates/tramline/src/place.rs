//! The project folder and what a running `dev` leaves in it for the other commands.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::{Done, Exit, Failure};

/// The folder of a project that holds everything tramline makes.
pub const STATE_DIR: &str = ".tramline";
const DEV_FILE: &str = "dev.json";

/// The project folder: the given one, else the nearest one upwards that holds `supabase/`.
pub fn find_project(given: Option<&Path>) -> Done<PathBuf> {
    if let Some(dir) = given {
        let dir = dir.canonicalize().map_err(|error| {
            Failure::new(
                Exit::NotFound,
                format!("failed to open the project {}: {error}", dir.display()),
            )
        })?;
        return Ok(dir);
    }
    let here = std::env::current_dir().map_err(|error| {
        Failure::new(
            Exit::Failure,
            format!("failed to read the current folder: {error}"),
        )
    })?;
    let found = here
        .ancestors()
        .find(|dir| dir.join("supabase").is_dir() || dir.join("tramline.toml").is_file());
    found.map(Path::to_owned).ok_or_else(|| {
        Failure::new(
            Exit::NotFound,
            format!(
                "failed to find a project: neither {} nor a folder above it holds supabase/",
                here.display()
            ),
        )
        .hint("Name the folder: `tramline dev PATH`, or --project for the other commands.")
    })
}

/// `.tramline/dev.json`: the secret that lasts, and the node that runs now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevFile {
    /// Made once; cron functions compare with it.
    pub cron_secret: String,
    /// Set while `dev` runs, and left behind when it is killed.
    #[serde(default)]
    pub node: Option<DevNode>,
}

/// How to reach a running `dev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevNode {
    pub pid: u32,
    pub url: String,
    pub db_url: String,
    pub anon_key: String,
    pub service_role_key: String,
}

impl DevFile {
    /// Where it is.
    pub fn path(project: &Path) -> PathBuf {
        project.join(STATE_DIR).join(DEV_FILE)
    }

    /// What the file says; nothing when there is none or it cannot be understood (an older version's).
    pub fn read(project: &Path) -> Option<Self> {
        let text = fs::read_to_string(Self::path(project)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Replaces the file, readable by its owner only.
    pub fn write(&self, project: &Path) -> io::Result<()> {
        let path = Self::path(project);
        let fresh = path.with_extension("json.new");
        // a file of a killed writer would keep its mode
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        file.write_all(b"\n")?;
        fs::rename(&fresh, &path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_dev_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(STATE_DIR)).unwrap();
        let file = DevFile {
            cron_secret: "s".into(),
            node: None,
        };
        file.write(dir.path()).unwrap();
        file.write(dir.path()).unwrap();
        assert_eq!(DevFile::read(dir.path()), Some(file));
        let mode = fs::metadata(DevFile::path(dir.path()))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
