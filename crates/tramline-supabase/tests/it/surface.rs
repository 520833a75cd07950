use tramline_supabase::surface::{NewTables, install};

use crate::support::TestDb;

#[tokio::test]
async fn installing_again_changes_and_warns_nothing() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client
        .batch_execute("alter role anon set statement_timeout = '4s'")
        .await
        .unwrap();
    let warnings = install(&db.url, NewTables::Exposed).await.unwrap();
    assert_eq!(warnings, []);
    let config = db
        .value("select rolconfig::text from pg_roles where rolname = 'anon'")
        .await;
    assert_eq!(config.as_deref(), Some("{statement_timeout=4s}"));
    client
        .batch_execute("alter role anon set statement_timeout = '3s'")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_role_without_superuser_installs_what_it_may() {
    // The roles belong to the server, so they are there; the owner holds them as if it had made them.
    let _roles = TestDb::new().await;
    let db = TestDb::empty().await;
    db.run(
        "do $$ begin create role plain_owner login createrole; exception when duplicate_object then null; end $$;
         grant anon, authenticated, service_role, authenticator to plain_owner with admin option;
         do $$ begin execute format('alter database %I owner to plain_owner', current_database()); end $$;
         alter schema public owner to plain_owner",
    )
    .await;
    let url = db.url.replace("postgres@", "plain_owner@");
    let warnings = install(&url, NewTables::Exposed).await.unwrap();
    assert_eq!(warnings, []);
    assert_eq!(
        db.value("select count(*) from auth.users").await.as_deref(),
        Some("0")
    );
    assert_eq!(
        db.value("select extensions.uuid_generate_v4() is not null")
            .await
            .as_deref(),
        Some("t")
    );
    assert_eq!(
        db.value("select count(*) from pg_event_trigger").await.as_deref(),
        Some("0")
    );
}

#[tokio::test]
async fn tables_are_exposed_only_when_asked() {
    for (new_tables, expected) in [(NewTables::Exposed, "t"), (NewTables::Granted, "f")] {
        let db = TestDb::with_store().await;
        install(&db.url, new_tables).await.unwrap();
        db.run("create table public.things (id int)").await;
        let granted = db
            .value("select has_table_privilege('anon', 'public.things', 'select')")
            .await;
        assert_eq!(granted.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn platform_names_that_migrations_use_exist() {
    let db = TestDb::new().await;
    db.run(
        "create table public.profiles (id uuid primary key default uuid_generate_v4() references auth.users on delete cascade);
         alter publication supabase_realtime add table public.profiles;
         grant usage on schema public to supabase_auth_admin;
         select extensions.digest('x', 'sha256'), gen_random_uuid();",
    )
    .await;
    db.run(
        "insert into auth.users (instance_id, id, aud, role, email, encrypted_password, email_confirmed_at, raw_app_meta_data, raw_user_meta_data, created_at, updated_at, confirmation_token)
         values ('00000000-0000-0000-0000-000000000000', gen_random_uuid(), 'authenticated', 'authenticated', 'a@b.c', '', now(), '{}', '{}', now(), now(), '')",
    )
    .await;
}
