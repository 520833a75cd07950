use tramline_supabase::sql::{ExtensionVerb, StatementKind, kind_of, split};

fn texts(sql: &str) -> Vec<&str> {
    split(sql)
        .unwrap()
        .into_iter()
        .map(|statement| statement.text)
        .collect()
}

#[test]
fn semicolons_end_statements_only_outside_of_quotes_and_comments() {
    assert_eq!(texts("select 1; select 2"), ["select 1", "select 2"]);
    assert_eq!(
        texts(";; -- only; this\n /* and; /* nested; */ this; */ ;"),
        Vec::<&str>::new()
    );
    assert_eq!(
        texts("select ';', 'it''s;', \"a;\"\"b\";select 2"),
        ["select ';', 'it''s;', \"a;\"\"b\"", "select 2"]
    );
    assert_eq!(
        texts(r"select E'\';', 'a\'; select 2"),
        [r"select E'\';', 'a\'", "select 2"]
    );
    assert_eq!(
        texts("select 1 -- c;\n + 1; select 2 /* ; */"),
        ["select 1 -- c;\n + 1", "select 2"]
    );
}

#[test]
fn dollar_quotes_are_opaque() {
    let function =
        "create function f() returns int language plpgsql as $body$ begin return 1; $$ ; $$ end; $body$";
    assert_eq!(
        texts(&format!("{function};select $1; select a$b; c")),
        [function, "select $1", "select a$b", "c"]
    );
    assert_eq!(
        texts("do $$ begin null; end $$; select 1"),
        ["do $$ begin null; end $$", "select 1"]
    );
    assert_eq!(texts("select $ä$;$ä$; x"), ["select $ä$;$ä$", "x"]);
}

#[test]
fn bodies_and_parentheses_hold_their_semicolons() {
    let atomic =
        "create function f() returns int begin atomic select case when true then 1 end; select 2; end";
    assert_eq!(texts(&format!("{atomic}; select 1")), [atomic, "select 1"]);
    let rule = "create rule r as on insert to t do also (select 1; select 2)";
    assert_eq!(texts(&format!("{rule}; select 3")), [rule, "select 3"]);
    assert_eq!(
        texts("begin; select 1; end; select 2"),
        ["begin", "select 1", "end", "select 2"]
    );
}

#[test]
fn statements_know_their_offsets_and_open_quotes_are_reported() {
    let sql = "\u{feff}-- head\nselect 1;\n  select 'ü';\nselect 3";
    let offsets: Vec<&str> = split(sql)
        .unwrap()
        .iter()
        .map(|s| &sql[s.offset..s.offset + 8])
        .collect();
    assert_eq!(offsets, ["select 1", "select '", "select 3"]);
    for (sql, offset, what) in [
        ("select 'x", 7, "string"),
        ("select \"x", 7, "quoted name"),
        ("select 1; /* x", 10, "comment"),
        ("do $a$ x $b$", 3, "dollar-quoted text"),
    ] {
        let unclosed = split(sql).unwrap_err();
        assert_eq!((unclosed.offset, unclosed.what), (offset, what), "{sql}");
    }
}

#[test]
fn kinds_that_need_special_treatment_are_recognised() {
    let create = |name: &str, schema: Option<&str>| StatementKind::Extension {
        verb: ExtensionVerb::Create,
        name: name.into(),
        schema: schema.map(str::to_owned),
    };
    let cases = [
        ("create extension pg_cron", create("pg_cron", None)),
        (
            "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" WITH SCHEMA extensions",
            create("uuid-ossp", Some("extensions")),
        ),
        (
            "create /* x */ extension pg_net schema \"Net\" version '1' cascade",
            create("pg_net", Some("Net")),
        ),
        (
            "comment on extension pg_cron is 'x'",
            StatementKind::Extension {
                verb: ExtensionVerb::Comment,
                name: "pg_cron".into(),
                schema: None,
            },
        ),
        (
            "drop extension if exists pg_net",
            StatementKind::Extension {
                verb: ExtensionVerb::Drop,
                name: "pg_net".into(),
                schema: None,
            },
        ),
        ("begin", StatementKind::TransactionFrame),
        ("START TRANSACTION read only", StatementKind::TransactionFrame),
        ("commit and chain", StatementKind::TransactionFrame),
        ("rollback", StatementKind::Rollback),
        ("rollback to savepoint x", StatementKind::Plain),
        (
            "create unique index concurrently i on t (a)",
            StatementKind::OutsideTransaction,
        ),
        (
            "create index concurrently on t (a)",
            StatementKind::OutsideTransaction,
        ),
        ("create index i on concurrently (a)", StatementKind::Plain),
        (
            "drop index concurrently if exists i",
            StatementKind::OutsideTransaction,
        ),
        (
            "reindex (verbose) table concurrently t",
            StatementKind::OutsideTransaction,
        ),
        ("refresh materialized view concurrently v", StatementKind::Plain),
        ("vacuum (analyze) t", StatementKind::OutsideTransaction),
        ("alter system set x = 1", StatementKind::OutsideTransaction),
        ("copy public.t (a, b) from stdin", StatementKind::CopyFromStdin),
        ("copy t from '/tmp/x'", StatementKind::Plain),
        ("\\connect x", StatementKind::PsqlCommand),
        (
            "insert into t values ('create extension x')",
            StatementKind::Plain,
        ),
    ];
    for (statement, expected) in cases {
        assert_eq!(kind_of(statement), expected, "{statement}");
    }
}
