//! Jobs enqueued one by one by 16 clients, through every door, beside plain inserts into a table that does nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::cpu::{self, PerItem};
use crate::engine::{Subject, payload};
use crate::figures::{Figures, Sample, Side};
use crate::load::{self, Pace};
use crate::node::{Key, Node, write_project};
use crate::postgres::{self, Postgres};
use crate::sizes::Sizes;
use crate::{Place, Wanted};

/// Figures measured here.
pub const NAMES: &[&str] = &[
    "enqueue-gateway-per-second",
    "enqueue-view-per-second",
    "enqueue-correlated-per-second",
];
/// The peer: what a row costs that nobody looks at.
const PLAIN: &str = "plain insert";
const CLIENTS: usize = 16;
/// Until connections are open and statements prepared.
const WARM_UP: Duration = Duration::from_millis(500);

/// Measures in turns.
pub async fn measure(
    place: &Place,
    postgres: &Postgres,
    sizes: Sizes,
    wanted: Wanted<'_>,
    repeats: usize,
    figures: &mut Figures,
) -> Result<()> {
    let time = Duration::from_secs(sizes.load_seconds);
    for turn in 1..=repeats {
        crate::say(&format!("turn {turn} of {repeats}: rows one by one"));
        if wanted.peers {
            let sample = plain(postgres, time).await.context("insert plain rows")?;
            for name in NAMES.iter().filter(|name| wanted.has(name)) {
                figures.add(name, Side::peer(PLAIN), sample);
            }
        }
        if wanted.has(NAMES[0]) {
            let sample = gateway(place, postgres, time)
                .await
                .context("enqueue through the gateway")?;
            figures.add(NAMES[0], Side::Tramline, sample);
        }
        for (name, correlated) in [(NAMES[1], false), (NAMES[2], true)] {
            if wanted.has(name) {
                let sample = view(postgres, time, correlated)
                    .await
                    .context("insert into the view")?;
                figures.add(name, Side::Tramline, sample);
            }
        }
    }
    Ok(())
}

async fn plain(postgres: &Postgres, time: Duration) -> Result<Sample> {
    let url = postgres.fresh_empty("plain").await?;
    let client = postgres::connect(&url).await?;
    client
        .batch_execute("create table plain (id uuid primary key, input jsonb not null, at timestamptz not null default now())")
        .await?;
    let statement = Statement {
        text: "insert into plain (id, input) values ($1, $2)",
        types: &[Type::UUID, Type::JSONB],
        values: |input| vec![Box::new(Uuid::now_v7()), Box::new(input)],
    };
    inserts("plain insert", postgres, &url, statement, time).await
}

/// No node runs: what is measured is the door.
async fn view(postgres: &Postgres, time: Duration, correlated: bool) -> Result<Sample> {
    let subject = Subject::new(postgres).await?;
    let statement = if correlated {
        Statement {
            text: "insert into ops.runs (target, input, correlation_id) values ('noop', $1, $2)",
            types: &[Type::JSONB, Type::TEXT],
            values: |input| vec![Box::new(input), Box::new(Uuid::now_v7().to_string())],
        }
    } else {
        Statement {
            text: "insert into ops.runs (target, input) values ('noop', $1)",
            types: &[Type::JSONB],
            values: |input| vec![Box::new(input)],
        }
    };
    let what = if correlated {
        "view, with correlation ids"
    } else {
        "view"
    };
    inserts(what, postgres, &subject.url, statement, time).await
}

type Values = Vec<Box<dyn ToSql + Send + Sync>>;

/// What each client does again and again.
#[derive(Clone, Copy)]
struct Statement {
    text: &'static str,
    types: &'static [Type],
    values: fn(Value) -> Values,
}

async fn inserts(
    what: &str,
    postgres: &Postgres,
    url: &str,
    statement: Statement,
    time: Duration,
) -> Result<Sample> {
    let from = Instant::now() + WARM_UP;
    let until = from + time;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = postgres::connect(url).await?;
        clients.spawn(async move {
            let prepared = client.prepare_typed(statement.text, statement.types).await?;
            let mut count = 0_usize;
            for i in number.. {
                let now = Instant::now();
                if now >= until {
                    break;
                }
                let values = (statement.values)(payload(i));
                let values: Vec<&(dyn ToSql + Sync)> = values
                    .iter()
                    .map(|value| &**value as &(dyn ToSql + Sync))
                    .collect();
                client.execute(&prepared, &values).await?;
                count += usize::from(now >= from);
            }
            anyhow::Ok((count, client))
        });
    }
    let before = at(from, postgres, cpu::own).await;
    let done = clients.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    // While the connections are open: the time of a server process that is just ending is found neither with it nor with its parent.
    let after = (cpu::own(), postgres.cpu());
    Ok(sample(
        what,
        done.iter().map(|(count, _)| count).sum(),
        time,
        before,
        after,
    ))
}

/// A node of the role gateway alone: nobody executes what is enqueued.
async fn gateway(place: &Place, postgres: &Postgres, time: Duration) -> Result<Sample> {
    let subject = Subject::new(postgres).await?;
    let project = place.target.join("enqueue");
    write_project(&project, &[], "")?;
    let node = Node::serve(place, &project, &subject.url, "gateway").await?;
    let mut target = node.target("/api/v1/runs", Some(Key::ServiceRole));
    let body = serde_json::json!({ "target": "noop", "input": payload(0) });
    target.body = Some(body.to_string().into());
    let from = Instant::now() + time / 4;
    let load = tokio::spawn(load::run(target, CLIENTS, Pace::Busy, time));
    let pid = node.pid;
    // The node's with the client's, as of the others.
    let own = || cpu::process(pid) + cpu::own();
    let before = at(from, postgres, own).await;
    let load = load.await??;
    let after = (own(), postgres.cpu());
    let count = (load.per_second * time.as_secs_f64()).round() as usize;
    let sample = sample("gateway", count, time, before, after);
    node.stop().await?;
    Ok(sample)
}

/// Processor time of both sides at a moment.
async fn at(from: Instant, postgres: &Postgres, client: impl Fn() -> f64) -> (f64, f64) {
    tokio::time::sleep_until(from.into()).await;
    (client(), postgres.cpu())
}

fn sample(what: &str, count: usize, time: Duration, before: (f64, f64), after: (f64, f64)) -> Sample {
    let cpu = PerItem {
        client: (after.0 - before.0) * 1e6 / count as f64,
        server: (after.1 - before.1) * 1e6 / count as f64,
    };
    let rate = count as f64 / time.as_secs_f64();
    crate::say(&format!("  {what}: {rate:.0}/s; of each {cpu}"));
    Sample::rate(rate, Some(cpu))
}
