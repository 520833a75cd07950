//! Lists over a large ledger.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::engine::{FILLER_BYTES, Subject};
use crate::figures::{Figures, Sample, Side};
use crate::postgres::{self, Postgres};
use crate::stats::{ms, p50_p99};
use crate::{Wanted, say};

/// Figures measured here.
pub const NAMES: &[&str] = &["list-by-id", "list-newest", "list-newest-of-status"];
/// Rows of one statement.
const ROWS: i64 = 250_000;
/// One in so many failed.
const FAILED_EVERY: i64 = 1_000;
/// How often each list is read.
const READS: usize = 200;
const NEWEST: i64 = 50;

/// Measures once: the ledger takes minutes to fill.
pub async fn measure(
    postgres: &Postgres,
    runs: i64,
    wanted: Wanted<'_>,
    figures: &mut Figures,
) -> Result<()> {
    let subject = Subject::new(postgres).await?;
    let client = postgres::connect(&subject.url).await?;
    say(&format!("filling the ledger with {runs} ended runs"));
    let since = Instant::now();
    fill(&client, runs).await.context("fill the ledger")?;
    say(&format!("  took {:.0} s", since.elapsed().as_secs_f64()));
    let ids = client
        .query(
            "select run_id from tramline.runs tablesample system (0.1) limit $1",
            &[&i64::try_from(READS)?],
        )
        .await?;
    ensure!(!ids.is_empty(), "the ledger is empty");
    let statements = [
        ("select * from ops.runs where run_id = $1", 1),
        (
            "select * from ops.list_runs(p_limit => 50) where $1::uuid is not null",
            NEWEST,
        ),
        (
            "select * from ops.list_runs('failed', p_limit => 50) where $1::uuid is not null",
            NEWEST,
        ),
    ];
    for (name, (statement, rows)) in NAMES.iter().zip(statements).filter(|(name, _)| wanted.has(name)) {
        let statement = client.prepare(statement).await?;
        let mut times = Vec::with_capacity(READS);
        for read in 0..READS {
            let id: Uuid = ids[read % ids.len()].get(0);
            let since = Instant::now();
            let found = client.query(&statement, &[&id]).await?;
            times.push(ms(since.elapsed()));
            ensure!(
                i64::try_from(found.len())? == rows,
                "{name} found {} runs",
                found.len()
            );
        }
        let times = p50_p99(times).context("nothing was read")?;
        say(&format!("{name}: p50 {:.2} ms, p99 {:.2} ms", times.0, times.1));
        figures.add(name, Side::Tramline, Sample::times(times));
    }
    Ok(())
}

/// As if they had run during the last minutes: by the ledger's own tables, since executing them would take an hour.
async fn fill(client: &Client, runs: i64) -> Result<()> {
    for first in (0..runs).step_by(usize::try_from(ROWS)?) {
        client
            .execute(
                "with made as materialized (
                   select overlay(uuid_send(gen_random_uuid()) placing substring(uuid_send(tramline.uuid_at(now() - ($2 - i) * interval '50 microseconds')) from 1 for 6)
                            from 1 for 6) as id, i
                     from generate_series($1::int8, $1 + $3 - 1) i),
                 named as materialized (
                   select encode(set_byte(id, 6, (get_byte(id, 6) & 15) | 112), 'hex')::uuid as run_id, i from made),
                 started as (
                   insert into tramline.runs (run_id, shard, kind, target, input, source)
                   select run_id, tramline.shard_of(run_id), 'function', 'noop', jsonb_build_object('i', i, 'filler', repeat('x', $4::int)), 'bench'
                     from named)
                 insert into tramline.run_ends (run_id, shard, generation, status, output, attempt, epoch, started_at)
                 select run_id, tramline.shard_of(run_id), 1, case when i % $5 = 0 then 'failed' else 'completed' end,
                        jsonb_build_object('i', i, 'filler', repeat('x', $4::int)), 1, 1, now()
                   from named",
                &[&first, &runs, &ROWS, &i32::try_from(FILLER_BYTES)?, &FAILED_EVERY],
            )
            .await?;
        // So that the log of all this does not take as much room again as the ledger itself.
        client.batch_execute("checkpoint").await?;
    }
    // As autovacuum would have done by then.
    client.batch_execute("vacuum analyze").await?;
    Ok(())
}
