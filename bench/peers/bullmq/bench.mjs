// Measures BullMQ on a Redis of its own that makes every command durable before it answers (appendfsync always): the
// promise that the systems on Postgres give.
//
//   npm ci && REDIS_SERVER=/usr/bin/redis-server ../node/node_modules/.bin/node bench.mjs
//
// Redis listens on a free port of 127.0.0.1 and keeps its files in REDIS_DIR (a folder that is emptied first).
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Queue, Worker } from "bullmq";
import { batches, begin, openLoop, payload, rate, RATE_PER_SECOND, REST_MS, SIZES, startTimes, times } from "../common.mjs";

const QUEUE = "bench";
const CONCURRENCY = 50;
const LATENCY_CONCURRENCY = 4;
// Jobs that are done are not kept, as BullMQ's documentation advises for production.
const JOB = { removeOnComplete: true };

async function freePort() {
  const server = net.createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

const folder = process.env.REDIS_DIR ?? path.join(import.meta.dirname, "node_modules/.redis");
fs.rmSync(folder, { recursive: true, force: true });
fs.mkdirSync(folder, { recursive: true });
const port = await freePort();
const redis = spawn(process.env.REDIS_SERVER ?? "redis-server", [
  "--port", port, "--bind", "127.0.0.1", "--dir", folder, "--maxmemory-policy", "noeviction",
  "--appendonly", "yes", "--appendfsync", "always", "--save", "",
], { stdio: "ignore" });
process.on("exit", () => redis.kill("SIGKILL"));
redis.on("exit", (code) => {
  console.error(`redis-server ended with ${code}`);
  process.exit(1);
});

const connection = { host: "127.0.0.1", port, maxRetriesPerRequest: null };
const queue = new Queue(QUEUE, { connection });
await queue.waitUntilReady();

const startWorker = (concurrency, run) => new Worker(QUEUE, run, { connection, concurrency, removeOnComplete: { count: 0 } });

async function enqueueAll() {
  for (const batch of batches(SIZES.jobs)) {
    await queue.addBulk(batch.map((data) => ({ name: "noop", data, opts: JOB })));
  }
}

/** From the start of the worker until the end of every job is acknowledged by Redis. */
async function drainAll() {
  let completed = 0;
  const allCompleted = Promise.withResolvers();
  const worker = startWorker(CONCURRENCY, async (job) => job.data);
  worker.on("completed", () => {
    completed += 1;
    if (completed === SIZES.jobs) allCompleted.resolve();
  });
  await allCompleted.promise;
  return worker;
}

await rate("enqueue-batched-per-second", "jobs/s", SIZES.jobs, enqueueAll, redis.pid);
let worker;
await rate("jobs-per-second", "jobs/s", SIZES.jobs, async () => (worker = await drainAll()), redis.pid);
await worker.close();
assert.equal(await queue.count(), 0);

const starts = startTimes(SIZES.latencyJobs);
worker = startWorker(LATENCY_CONCURRENCY, async (job) => {
  starts.started(job.data.i);
  return job.data;
});
await worker.waitUntilReady();
await sleep(REST_MS);
begin("enqueue-to-start", SIZES.latencyJobs, redis.pid);
await openLoop(RATE_PER_SECOND, SIZES.latencyJobs, (i) => {
  starts.sent(i);
  return queue.add("noop", payload(i), JOB);
});
await starts.all;
times("enqueue-to-start", starts.values);

await worker.close();
await queue.close();
redis.removeAllListeners("exit");
redis.kill("SIGKILL");
fs.rmSync(folder, { recursive: true, force: true });
