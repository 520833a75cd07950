//! Rules that every object of the schema keeps, read from the catalogs: what is added later is held to them too.

use tokio_postgres::Client;

use crate::support::shared;

/// Names that break a rule.
async fn offenders(client: &Client, sql: &str) -> Vec<String> {
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|r| r.get(0)).collect()
}

const OURS: &str = "n.nspname in ('ops', 'tramline')";

#[tokio::test]
async fn c12_the_schema_keeps_its_rules() {
    let client = shared().await.sql;
    let functions = format!(
        "select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {OURS}"
    );
    let relations =
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace";
    let all_functions = offenders(&client, &functions).await;
    assert!(all_functions.len() > 20, "the catalog is read: {all_functions:?}");
    for (rule, sql) in [
        (
            "no function is executable by PUBLIC or by anon",
            format!("{functions} and (has_function_privilege('anon', p.oid, 'execute')
                or exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0))"),
        ),
        (
            "the engine's own functions are for the engine's roles",
            format!("{functions} and n.nspname = 'tramline' and p.provolatile = 'v' and p.proname <> 'uuid_v7'
                and exists (select from unnest(array['authenticated', 'service_role', 'tramline_dashboard']) r where has_function_privilege(r, p.oid, 'execute'))"),
        ),
        (
            "a definer function has a fixed search path that ends with pg_temp",
            format!("{functions} and p.prosecdef and not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false)"),
        ),
        (
            "a view asks with the rights of its reader",
            format!("{relations} where ({OURS} or c.relname like 'ops.%') and c.relkind = 'v' and not coalesce(c.reloptions @> array['security_invoker=true'], false)"),
        ),
        ("there is no materialized view, which has no reader's rights", format!("{relations} where {OURS} and c.relkind = 'm'")),
        ("every table has row security", format!("{relations} where {OURS} and c.relkind in ('r', 'p') and not c.relrowsecurity")),
        ("row security is not forced on the owner, whose functions are the gate", format!("{relations} where {OURS} and c.relforcerowsecurity")),
        (
            "nothing is granted to PUBLIC or to anon",
            format!("{relations} where ({OURS} or c.relname like 'ops.%') and exists (select from aclexplode(c.relacl) a where a.grantee in (0, 'anon'::regrole))"),
        ),
        (
            "nobody asks a partition",
            format!("{relations} where {OURS} and c.relispartition and exists (select from aclexplode(c.relacl) a where a.grantee <> c.relowner)"),
        ),
        ("no schema is open to PUBLIC", "select n.nspname::text from pg_namespace n, aclexplode(n.nspacl) a where n.nspname in ('ops', 'tramline') and a.grantee = 0".into()),
        (
            "no policy is for PUBLIC or for anon",
            format!("select p.polname || ' on ' || c.relname from pg_policy p join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace
                where {OURS} and p.polroles && array[0::oid, 'anon'::regrole::oid]"),
        ),
        (
            "policies of the engine are literal, so that they are folded away",
            format!("select p.polname || ' on ' || c.relname from pg_policy p join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace
                where {OURS} and p.polroles && array['tramline_engine'::regrole::oid] and (pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid)) is distinct from ('true', 'true')"),
        ),
        ("there are no foreign keys", format!("{relations} join pg_constraint k on k.conrelid = c.oid where {OURS} and k.contype = 'f'")),
        (
            "no partitioned table has a default partition, which would block the making of a day",
            format!("{relations} join pg_partitioned_table t on t.partrelid = c.oid where {OURS} and t.partdefid <> 0"),
        ),
        (
            "a partition and its sibling have the same columns",
            "select c.relname || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 where c.relnamespace = 'tramline'::regnamespace and c.relkind = 'p'
                and not exists (select from pg_attribute b where b.attrelid = ('tramline.' || c.relname || '_foreign')::regclass and (b.attname, b.atttypid, b.attnum, b.attnotnull) = (a.attname, a.atttypid, a.attnum, a.attnotnull))".into(),
        ),
        (
            "status is in no index but of ends, which never change: it would be changed with every run",
            "select i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indrelid join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey)
                where c.relnamespace = 'tramline'::regnamespace and a.attname = 'status' and c.relname not like 'run_ends%'".into(),
        ),
    ] {
        let found = offenders(&client, &sql).await;
        assert!(found.is_empty(), "{rule}: {found:#?}");
    }
}
