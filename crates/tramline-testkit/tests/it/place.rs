//! Root, ordinary users, and folders that one of them cannot enter.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use tramline_store::embedded::{Binaries, EmbeddedError, EmbeddedPostgres};
use tramline_testkit::connect;

use crate::project::{Project, is_root, owner};

#[tokio::test]
async fn root_never_runs_postgres_and_owns_only_its_own_folders() {
    if !is_root() {
        return;
    }
    let project = Project::new();
    let postgres = project.start().await;
    let uid = owner(format!("/proc/{}", postgres.pid()).as_ref());
    assert_ne!(uid, 0);
    assert_eq!(owner(postgres.data_dir()), uid);
    assert_eq!(owner(&project.state_dir), 0);
    assert_eq!(owner(postgres.log_path()), 0);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn data_of_a_project_that_the_account_cannot_enter_live_elsewhere_and_are_found_again() {
    if !is_root() {
        return;
    }
    let project = Project::new();
    let folder = project.state_dir.parent().unwrap();
    // as below /root
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
    let postgres = project.start().await;
    assert!(
        !postgres
            .data_dir()
            .starts_with(project.state_dir.canonicalize().unwrap())
    );
    assert_eq!(project.said("cannot enter"), 1);
    connect(postgres.url())
        .await
        .batch_execute("create table t as select 7 as n")
        .await
        .unwrap();
    let place = postgres.data_dir().to_owned();
    postgres.stop().await.unwrap();

    // even when the folder could be entered by now: the data stay where they are
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let postgres = project.start().await;
    assert_eq!(postgres.data_dir(), place);
    let n: i32 = connect(postgres.url())
        .await
        .query_one("select n from t", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(n, 7);
    postgres.stop().await.unwrap();
    EmbeddedPostgres::erase(&project.state_dir, &|_| {})
        .await
        .unwrap();
    assert!(!place.exists());
}

#[tokio::test]
async fn a_project_that_root_copied_with_its_data_starts_with_them() {
    if !is_root() {
        return;
    }
    let (original, copy) = (Project::new(), Project::new());
    let postgres = original.start().await;
    connect(postgres.url())
        .await
        .batch_execute("create table t as select 7 as n")
        .await
        .unwrap();
    postgres.stop().await.unwrap();
    // as people copy folders: what is copied belongs to the one who copies
    let copied = Command::new("cp")
        .arg("-r")
        .arg(original.state_dir.join("postgres"))
        .arg(&copy.state_dir)
        .status()
        .unwrap();
    assert!(copied.success());
    let data_dir = |project: &Project| {
        let mut folders = std::fs::read_dir(project.state_dir.join("postgres")).unwrap();
        folders
            .find_map(|entry| Some(entry.unwrap().path()).filter(|path| path.join("PG_VERSION").exists()))
            .unwrap()
    };
    assert_eq!(owner(&data_dir(&copy).join("PG_VERSION")), 0);
    let postgres = copy.start().await;
    let n: i32 = connect(postgres.url())
        .await
        .query_one("select n from t", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(n, 7);
    assert_eq!(
        owner(&data_dir(&copy).join("PG_VERSION")),
        owner(&data_dir(&original))
    );
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn data_that_became_unreachable_are_refused_instead_of_started_empty() {
    if !is_root() {
        return;
    }
    let project = Project::new();
    project.start().await.stop().await.unwrap();
    let folder = project.state_dir.parent().unwrap();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
    let error = project.try_start(project.config()).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("chmod o+x"), "{error}");
}

/// Runs as `nobody` in the process that the next test starts.
#[tokio::test]
#[ignore = "started by an_ordinary_user_runs_postgres_as_itself"]
async fn as_an_ordinary_user() {
    let mut project = Project::new();
    project.cache_dir = project.state_dir.with_file_name("cache");
    let mut config = project.config();
    config.binaries = Binaries::Dir(PathBuf::from(std::env::var_os("TRAMLINE_TEST_BIN_DIR").unwrap()));
    let postgres = project.try_start(config).await.unwrap();
    let me = nix::unistd::geteuid().as_raw();
    assert_ne!(me, 0);
    assert_eq!(owner(format!("/proc/{}", postgres.pid()).as_ref()), me);
    assert_eq!(owner(postgres.data_dir()), me);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn an_ordinary_user_runs_postgres_as_itself() {
    if !is_root() {
        // then all the other tests show it
        return;
    }
    let project = Project::new();
    let postgres = project.start().await;
    let bin_dir = postgres.bin_dir().to_owned();
    postgres.stop().await.unwrap();
    // the build folder may be closed to others
    let folder = project.state_dir.parent().unwrap();
    let program = folder.join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let mut child = Command::new(&program);
    child.args(["place::as_an_ordinary_user", "--exact", "--ignored"]);
    child.env("TRAMLINE_TEST_BIN_DIR", bin_dir).current_dir("/");
    child.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
