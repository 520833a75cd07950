// Measures graphile-worker in its documented best configuration, for comparison with tramline on the same Postgres.
//
//   npm install && node_modules/.bin/node bench.mjs <postgres-url> [jobs]
//
// DATABASE_URL and N take the place of the arguments; LATENCY_JOBS is the number of jobs of the latency part.
// Prints one JSON line per figure. Works in the schema graphile_worker of that database and empties its job table.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";

const url = process.argv[2] ?? process.env.DATABASE_URL;
const jobs = Number(process.argv[3] ?? process.env.N ?? 20_000);
const latencyJobs = Number(process.env.LATENCY_JOBS ?? 500);
if (!url || !(jobs > 0) || !(latencyJobs > 0)) {
  console.error("usage: node bench.mjs <postgres-url> [jobs]");
  process.exit(2);
}

const BATCH = 1000;
const RATE_PER_SECOND = 50;
const THROUGHPUT = {
  concurrentJobs: 24,
  maxPoolSize: 12,
  localQueue: { size: 500 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};
// Without a local queue: it raises the tail of the latency at low load.
const LATENCY = { concurrentJobs: 4 };
// With `i` and JSON's own characters about 300 bytes.
const FILLER = "x".repeat(280);

const logger = new Logger(() => () => {});
const pool = new pg.Pool({ connectionString: url, max: 4 });
const utils = await makeWorkerUtils({ connectionString: url, logger, maxPoolSize: 4 });
await utils.migrate();

const clear = () => pool.query("truncate graphile_worker._private_jobs");

async function jobsLeft() {
  const { rows } = await pool.query("select count(*)::int as left from graphile_worker._private_jobs");
  return rows[0].left;
}

function startWorker(settings, task) {
  return run({
    noHandleSignals: true,
    taskList: { noop: task },
    preset: { worker: { connectionString: url, logger, ...settings } },
  });
}

function report(name, value, unit, p50 = null, p99 = null) {
  const round = (n) => n === null ? null : Math.round(n * 100) / 100;
  console.log(JSON.stringify({ name, value: round(value), unit, p50: round(p50), p99: round(p99) }));
}

const perSecond = (since) => jobs / ((performance.now() - since) / 1000);

async function enqueueAll() {
  for (let first = 0; first < jobs; first += BATCH) {
    const size = Math.min(BATCH, jobs - first);
    await utils.addJobs(
      Array.from({ length: size }, (_, i) => ({ identifier: "noop", payload: { i: first + i, filler: FILLER } })),
    );
  }
}

/** From the start of the worker until the last job is executed and gone from the table. */
async function drainAll() {
  let executed = 0;
  const allExecuted = Promise.withResolvers();
  const since = performance.now();
  const runner = await startWorker(THROUGHPUT, () => {
    executed += 1;
    if (executed === jobs) allExecuted.resolve();
  });
  await allExecuted.promise;
  while (await jobsLeft() > 0) await sleep(2);
  const rate = perSecond(since);
  await runner.stop();
  assert.equal(executed, jobs);
  return rate;
}

/** Jobs at a fixed rate, whether or not earlier ones are done; from the call of addJob to the start of the task. */
async function startLatencies() {
  const sentAt = [];
  const latencies = [];
  const allStarted = Promise.withResolvers();
  const runner = await startWorker(LATENCY, ({ i }) => {
    latencies.push(performance.now() - sentAt[i]);
    if (latencies.length === latencyJobs) allStarted.resolve();
  });
  const since = performance.now() + 500; // lets the worker come to rest first
  const sends = [];
  for (let i = 0; i < latencyJobs; i += 1) {
    await sleep(Math.max(0, since + (i * 1000) / RATE_PER_SECOND - performance.now()));
    sentAt[i] = performance.now();
    sends.push(utils.addJob("noop", { i, filler: FILLER }));
  }
  await Promise.all(sends);
  await allStarted.promise;
  await runner.stop();
  return latencies.sort((a, b) => a - b);
}

const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];

await clear();
const enqueueing = performance.now();
await enqueueAll();
report("enqueue-batched-per-second", perSecond(enqueueing), "jobs/s");

report("jobs-per-second", await drainAll(), "jobs/s");

await clear();
const latencies = await startLatencies();
const [p50, p99] = [quantile(latencies, 0.5), quantile(latencies, 0.99)];
report("enqueue-to-start", p50, "ms", p50, p99);

await clear();
await utils.release();
await pool.end();
