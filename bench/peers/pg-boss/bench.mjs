// Measures pg-boss in the configuration its documentation describes for throughput (batches, several workers, no pause while
// batches come back full) and for latency (queue with notifications), on the Postgres that tramline is measured on.
//
//   npm ci && ../node/node_modules/.bin/node bench.mjs <postgres-url>
//
// Works in the schema pgboss of that database and deletes its jobs.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { PgBoss } from "pg-boss";
import { batches, begin, databaseUrl, openLoop, payload, rate, RATE_PER_SECOND, REST_MS, SIZES, startTimes, times } from "../common.mjs";

const THROUGHPUT = { batchSize: 100, localConcurrency: 4, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true };
const LATENCY = { batchSize: 1, localConcurrency: 4 };

const url = databaseUrl();
const pool = new pg.Pool({ connectionString: url, max: 2 });
const boss = new PgBoss({ connectionString: url, max: 20, useListenNotify: true });
boss.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
await boss.start();
await boss.createQueue("plain");
// Each insert of such a queue notifies: good for latency, a brake for batches.
await boss.createQueue("notified", { notify: true });
await boss.deleteAllJobs();

async function jobsLeft() {
  const { rows } = await pool.query("select count(*)::int as left from pgboss.job where name = 'plain' and state < 'completed'");
  return rows[0].left;
}

async function enqueueAll() {
  for (const batch of batches(SIZES.jobs)) await boss.insert("plain", batch.map((data) => ({ data })));
}

/** From the start of the workers until every job is executed and recorded as completed. */
async function drainAll() {
  let executed = 0;
  const allExecuted = Promise.withResolvers();
  await boss.work("plain", THROUGHPUT, async (jobs) => {
    executed += jobs.length;
    if (executed === SIZES.jobs) allExecuted.resolve();
    return jobs[0].data;
  });
  await allExecuted.promise;
  while (await jobsLeft() > 0) await sleep(2);
  assert.equal(executed, SIZES.jobs);
}

await rate("enqueue-batched-per-second", "jobs/s", SIZES.jobs, enqueueAll);
await rate("jobs-per-second", "jobs/s", SIZES.jobs, drainAll);
await boss.offWork("plain", { wait: true });

const starts = startTimes(SIZES.latencyJobs);
await boss.work("notified", LATENCY, async ([job]) => {
  starts.started(job.data.i);
  return job.data;
});
await sleep(REST_MS);
begin("enqueue-to-start", SIZES.latencyJobs);
await openLoop(RATE_PER_SECOND, SIZES.latencyJobs, (i) => {
  starts.sent(i);
  return boss.send("notified", payload(i));
});
await starts.all;
times("enqueue-to-start", starts.values);

await boss.stop({ graceful: true, wait: true });
await pool.end();
