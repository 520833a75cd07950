// Measures graphile-worker in its documented best configuration, on the Postgres that tramline is measured on.
//
//   npm ci && ../node/node_modules/.bin/node bench.mjs <postgres-url>
//
// Works in the schema graphile_worker of that database and empties its job table.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import { batches, begin, databaseUrl, openLoop, payload, rate, RATE_PER_SECOND, REST_MS, SIZES, startTimes, times } from "../common.mjs";

const THROUGHPUT = {
  concurrentJobs: 24,
  maxPoolSize: 12,
  localQueue: { size: 500 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};
// Without a local queue: it raises the tail of the latency at low load.
const LATENCY = { concurrentJobs: 4 };

const url = databaseUrl();
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

async function enqueueAll() {
  for (const batch of batches(SIZES.jobs)) {
    await utils.addJobs(batch.map((payload) => ({ identifier: "noop", payload })));
  }
}

/** From the start of the worker until the last job is executed and gone from the table. */
async function drainAll() {
  let executed = 0;
  const allExecuted = Promise.withResolvers();
  const runner = await startWorker(THROUGHPUT, () => {
    executed += 1;
    if (executed === SIZES.jobs) allExecuted.resolve();
  });
  await allExecuted.promise;
  while (await jobsLeft() > 0) await sleep(2);
  assert.equal(executed, SIZES.jobs);
  return runner;
}

await clear();
await rate("enqueue-batched-per-second", "jobs/s", SIZES.jobs, enqueueAll);
let runner;
await rate("jobs-per-second", "jobs/s", SIZES.jobs, async () => (runner = await drainAll()));
await runner.stop();

await clear();
const starts = startTimes(SIZES.latencyJobs);
runner = await startWorker(LATENCY, ({ i }) => starts.started(i));
await sleep(REST_MS);
begin("enqueue-to-start", SIZES.latencyJobs);
await openLoop(RATE_PER_SECOND, SIZES.latencyJobs, (i) => {
  starts.sent(i);
  return utils.addJob("noop", payload(i));
});
await starts.all;
times("enqueue-to-start", starts.values);
await runner.stop();

await clear();
await utils.release();
await pool.end();
