use tramline_supabase::migrations::{MigrationError, MigrationReport, run};

use crate::support::{Folder, TestDb, chain};

async fn migrate(db: &TestDb, folder: &Folder) -> Result<MigrationReport, MigrationError> {
    run(&db.url, &folder.project()).await
}

#[tokio::test]
async fn files_are_applied_in_order_once_and_recorded() {
    let db = TestDb::new().await;
    let folder = Folder::new(&[
        (
            "supabase/migrations/20240102000000_second.sql",
            "alter table a add column b int;\ninsert into a values (1, 2);",
        ),
        (
            "supabase/migrations/20240101000000_first.sql",
            "-- first\ncreate table a (id int);",
        ),
        ("supabase/migrations/notes.sql", "select 1"),
        ("supabase/seed.sql", "insert into a values (3, 4);"),
    ]);
    let report = migrate(&db, &folder).await.unwrap();
    assert_eq!(
        report.applied,
        [
            "supabase/migrations/20240101000000_first.sql",
            "supabase/migrations/20240102000000_second.sql"
        ]
    );
    assert_eq!(report.seeded, ["supabase/seed.sql"]);
    assert!(
        report.warnings[0]
            .to_string()
            .contains("notes.sql: Skipping migration")
    );
    let again = migrate(&db, &folder).await.unwrap();
    assert_eq!(
        (again.applied.len(), again.unchanged_count, again.seeded.len()),
        (0, 2, 0)
    );
    assert_eq!(db.value("select count(*) from a").await.as_deref(), Some("2"));
    let recorded = db
        .value("select version || ' ' || name || ' ' || statements::text from supabase_migrations.schema_migrations order by version desc limit 1")
        .await;
    assert_eq!(
        recorded.as_deref(),
        Some("20240102000000 second {\"alter table a add column b int\",\"insert into a values (1, 2)\"}")
    );
}

#[tokio::test]
async fn an_error_names_file_and_line_and_leaves_nothing_behind() {
    let db = TestDb::new().await;
    let folder = Folder::new(&[
        ("supabase/migrations/1_ok.sql", "create table kept (id int);"),
        (
            "supabase/migrations/2_bad.sql",
            "create table half (id int);\n-- ümlaut\ninsert into half\n  select 1,\n  ä.missing from half ä;\ncreate table never (id int);",
        ),
    ]);
    let error = migrate(&db, &folder).await.unwrap_err();
    let text = chain(&error);
    assert!(
        text.starts_with("apply supabase/migrations/2_bad.sql:5: column ä.missing does not exist (42703)"),
        "{text}"
    );
    assert!(text.ends_with("; nothing of this file was applied"), "{text}");
    assert_eq!(
        db.value("select to_regclass('half') is null and to_regclass('kept') is not null")
            .await
            .as_deref(),
        Some("t")
    );
    folder.write("supabase/migrations/2_bad.sql", "create table half (id int);");
    assert_eq!(
        migrate(&db, &folder).await.unwrap().applied,
        ["supabase/migrations/2_bad.sql"]
    );
}

#[tokio::test]
async fn errors_without_a_position_name_the_line_of_their_statement() {
    let db = TestDb::new().await;
    let folder = Folder::new(&[(
        "supabase/migrations/1_a.sql",
        "create table a (id int primary key);\n\ninsert into a values (1);\n\n\ninsert into a\nvalues (1);",
    )]);
    let text = chain(&migrate(&db, &folder).await.unwrap_err());
    assert!(text.contains("1_a.sql:6: duplicate key value"), "{text}");
    assert!(text.contains("detail: Key (id)=(1) already exists."), "{text}");
}

#[tokio::test]
async fn a_changed_applied_migration_is_refused() {
    let db = TestDb::new().await;
    let folder = Folder::new(&[("supabase/migrations/1_a.sql", "create table a (id int);")]);
    migrate(&db, &folder).await.unwrap();
    folder.write("supabase/migrations/1_a.sql", "create table a (id bigint);");
    let text = migrate(&db, &folder).await.unwrap_err().to_string();
    assert!(
        text.contains("supabase/migrations/1_a.sql: it was changed after it was applied"),
        "{text}"
    );
    assert!(text.contains("tramline dev --reset"), "{text}");
}

#[tokio::test]
async fn migrations_applied_by_the_supabase_cli_are_adopted() {
    let db = TestDb::new().await;
    db.run(
        "create schema supabase_migrations;
         create table supabase_migrations.schema_migrations (version text not null primary key, statements text[], name text);
         insert into supabase_migrations.schema_migrations values ('1', '{create table a (id int)}', 'a');
         create table a (id int)",
    )
    .await;
    let folder = Folder::new(&[("supabase/migrations/1_a.sql", "create table a (id int);")]);
    assert_eq!(migrate(&db, &folder).await.unwrap().unchanged_count, 1);
    let statements = db
        .value("select statements::text from supabase_migrations.schema_migrations")
        .await;
    assert_eq!(statements.as_deref(), Some("{\"create table a (id int)\"}"));
    folder.write("supabase/migrations/1_a.sql", "create table a (id bigint);");
    assert!(matches!(
        migrate(&db, &folder).await,
        Err(MigrationError::Changed { .. })
    ));
}

#[tokio::test]
async fn extension_statements_never_fail_a_file() {
    let db = TestDb::new().await;
    let sql = "create extension if not exists pg_cron with schema pg_catalog;
create extension pg_net with schema extensions;
create extension if not exists \"uuid-ossp\" with schema extensions;
CREATE EXTENSION IF NOT EXISTS citext;
create extension if not exists no_such_extension;
comment on extension pg_cron is 'jobs';
drop extension if exists pg_net;
create extension pgsodium;
create table t (id uuid default extensions.uuid_generate_v4(), name citext);";
    let folder = Folder::new(&[("supabase/migrations/1_a.sql", sql)]);
    let report = migrate(&db, &folder).await.unwrap();
    let warnings: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    for (warning, expected) in warnings.iter().zip([
        "1_a.sql:1: the extension pg_cron is not created: cron.schedule, cron.unschedule and cron.job do not exist here; \
         declare schedules in tramline/schedules",
        "1_a.sql:2: the extension pg_net is not created: net.http_get and net.http_post do not exist here; \
         start a function with ops.enqueue, or call it in a step of a workflow",
        "1_a.sql:5: the extension no_such_extension is not created: the database server does not offer it",
        "1_a.sql:8: the extension pgsodium is not created",
    ]) {
        assert!(warning.contains(expected), "{warning}");
    }
    let schema = db
        .value("select extnamespace::regnamespace::text from pg_extension where extname = 'citext'")
        .await;
    assert_eq!(schema.as_deref(), Some("extensions"));
}

#[tokio::test]
async fn the_use_of_an_extension_that_is_not_here_says_what_to_do() {
    let db = TestDb::new().await;
    for (statement, message, hint) in [
        (
            "select cron.schedule('nightly', '0 3 * * *', 'select 1')",
            "schema \"cron\" does not exist (3F000)",
            "the extension pg_cron does not exist here; declare schedules in tramline/schedules",
        ),
        (
            "delete from cron.job",
            "relation \"cron.job\" does not exist (42P01)",
            "the extension pg_cron does not exist here; declare schedules in tramline/schedules",
        ),
        (
            "select net.http_post(url := 'http://127.0.0.1/')",
            "schema \"net\" does not exist (3F000)",
            "the extension pg_net does not exist here; start a function with ops.enqueue",
        ),
        (
            "select http_get('http://127.0.0.1/')",
            "function http_get(unknown) does not exist (42883)",
            "the extension http does not exist here; call a function in a step of a workflow",
        ),
    ] {
        let sql = format!("create table a (id int);\n{statement};");
        let folder = Folder::new(&[("supabase/migrations/1_a.sql", &sql)]);
        let text = chain(&migrate(&db, &folder).await.unwrap_err());
        assert!(
            text.contains(&format!("supabase/migrations/1_a.sql:2: {message}; hint: {hint}")),
            "{text}"
        );
    }
    // others keep the words of the database
    let folder = Folder::new(&[("supabase/migrations/1_a.sql", "select cronicle.now();")]);
    let text = chain(&migrate(&db, &folder).await.unwrap_err());
    assert!(!text.contains("hint"), "{text}");
}

#[tokio::test]
async fn transaction_frames_in_a_file_are_passed_over() {
    let db = TestDb::new().await;
    let folder = Folder::new(&[(
        "supabase/migrations/1_a.sql",
        "begin;\ncreate table a (id int);\ncommit;\nselect 1/0;",
    )]);
    let text = chain(&migrate(&db, &folder).await.unwrap_err());
    assert!(text.contains("1_a.sql:4: division by zero"), "{text}");
    assert_eq!(db.value("select to_regclass('a')::text").await, None);
}

#[tokio::test]
async fn statements_that_need_no_transaction_have_a_file_of_their_own() {
    let db = TestDb::new().await;
    let folder = Folder::new(&[
        ("supabase/migrations/1_a.sql", "create table a (id int, x int);"),
        (
            "supabase/migrations/2_b.sql",
            "-- indexes\ncreate index concurrently a_id on a (id);\ncreate unique index concurrently a_x on a (x);\nvacuum a;",
        ),
    ]);
    assert_eq!(migrate(&db, &folder).await.unwrap().applied.len(), 2);
    assert_eq!(
        db.value("select to_regclass('a_x')::text").await.as_deref(),
        Some("a_x")
    );
    folder.write(
        "supabase/migrations/3_c.sql",
        "create table c (id int);\ncreate index concurrently c_id on c (id);",
    );
    let text = migrate(&db, &folder).await.unwrap_err().to_string();
    assert_eq!(
        text,
        "apply supabase/migrations/3_c.sql:2: `create index concurrently` cannot run in a transaction; put such statements into a file of their own"
    );
    assert_eq!(db.value("select to_regclass('c')::text").await, None);
}

#[tokio::test]
async fn what_only_psql_understands_is_refused_with_its_line() {
    let db = TestDb::new().await;
    for (sql, expected) in [
        (
            "select 1;\ncopy t from stdin;\n1\n\\.\n",
            "1_a.sql:2: `copy … from stdin` works in psql only",
        ),
        (
            "select 1;\n\\connect x\n",
            "1_a.sql:2: commands that start with a backslash",
        ),
        ("select 1;\n\nrollback;", "1_a.sql:3: a file is one transaction"),
        (
            "select 1;\nselect 'x",
            "1_a.sql:2: the string that starts here is not closed",
        ),
    ] {
        let folder = Folder::new(&[("supabase/migrations/1_a.sql", sql)]);
        let text = migrate(&db, &folder).await.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn settings_of_one_file_do_not_reach_the_next() {
    let db = TestDb::new().await;
    let folder = Folder::new(&[
        (
            "supabase/migrations/1_a.sql",
            "select pg_catalog.set_config('search_path', '', false); set role anon; set check_function_bodies = false;",
        ),
        (
            "supabase/migrations/2_b.sql",
            "create table b (id uuid default uuid_generate_v4());",
        ),
    ]);
    migrate(&db, &folder).await.unwrap();
    assert_eq!(
        db.value("select tableowner || schemaname from pg_tables where tablename = 'b'")
            .await
            .as_deref(),
        Some("postgrespublic")
    );
}

#[tokio::test]
async fn versions_are_numbers_and_must_differ() {
    let db = TestDb::new().await;
    let folder = Folder::new(&[
        ("supabase/migrations/9_a.sql", "create table a (id int);"),
        ("supabase/migrations/10_b.sql", "alter table a add column b int;"),
    ]);
    migrate(&db, &folder).await.unwrap();
    folder.write("supabase/migrations/8_late.sql", "create table late (id int);");
    let report = migrate(&db, &folder).await.unwrap();
    assert!(
        report.warnings[0]
            .to_string()
            .contains("8_late.sql: it is older than a migration that is already applied")
    );
    folder.write("supabase/migrations/010_c.sql", "select 1");
    let text = migrate(&db, &folder).await.unwrap_err().to_string();
    assert!(text.contains("have the same version"), "{text}");
}

#[tokio::test]
async fn several_nodes_may_migrate_at_once() {
    let db = TestDb::new().await;
    let folder = Folder::new(&[
        ("supabase/migrations/1_a.sql", "create table a (id int);"),
        ("supabase/migrations/2_b.sql", "insert into a values (1);"),
        ("supabase/seed.sql", "insert into a values (2);"),
    ]);
    let project = folder.project();
    let (one, two) = tokio::join!(run(&db.url, &project), run(&db.url, &project));
    assert_eq!(one.unwrap().applied.len() + two.unwrap().applied.len(), 2);
    assert_eq!(db.value("select count(*) from a").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_seed_that_fails_is_undone_and_a_changed_one_is_not_run_again() {
    let db = TestDb::new().await;
    let folder = Folder::new(&[
        ("supabase/config.toml", "[db.seed]\nsql_paths = ['./seeds/*.sql']"),
        (
            "supabase/migrations/1_a.sql",
            "create table a (id int primary key);",
        ),
        (
            "supabase/seeds/1.sql",
            "insert into a values (1);\ninsert into a values (1);",
        ),
    ]);
    let text = chain(&migrate(&db, &folder).await.unwrap_err());
    assert!(text.contains("supabase/seeds/1.sql:2: duplicate key"), "{text}");
    folder.write("supabase/seeds/1.sql", "insert into a values (1);");
    assert_eq!(
        migrate(&db, &folder).await.unwrap().seeded,
        ["supabase/seeds/1.sql"]
    );
    folder.write("supabase/seeds/1.sql", "insert into a values (2);");
    let report = migrate(&db, &folder).await.unwrap();
    assert!(report.seeded.is_empty());
    assert!(report.warnings[0].to_string().contains("is not run again"));
}
