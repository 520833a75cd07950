// What the scripts of the peers have in common: sizes, payload, pacing, and the lines that bench/run reads.
//
// A measurement is one line `{"begin": name, "count", "server": pid?}` when the measured work begins and one line
// `{"name", "value", "unit", "p50", "p99"}` when it has ended: processor time is taken at both, of the script and of the
// server beside it (Postgres, unless the script started one of its own and names its pid).
import { setTimeout as sleep } from "node:timers/promises";

/** Jobs of one call when they are enqueued in batches; tramline's benchmark has the same. */
export const BATCH = 1000;
/** Runs in flight in the closed loop; tramline's benchmark has the same. */
export const AT_A_TIME = 50;
/** Jobs per second of the open loop; tramline's benchmark has the same. */
export const RATE_PER_SECOND = 50;
/** Lets a started worker come to rest before latencies are taken. */
export const REST_MS = 500;
// With `i` and JSON's own characters about 300 bytes.
const FILLER = "x".repeat(280);

const number = (name, fallback) => {
  const value = Number(process.env[name] ?? fallback);
  if (!(value > 0)) {
    console.error(`${name} must be a number above 0`);
    process.exit(2);
  }
  return value;
};

/** How much is done for each figure. */
export const SIZES = {
  jobs: number("JOBS", 20_000),
  runs: number("RUNS", 1_000),
  runsAlone: number("RUNS_ALONE", 200),
  latencyJobs: number("LATENCY_JOBS", 500),
};

/** The address of the database: argument or `DATABASE_URL`. */
export function databaseUrl() {
  const url = process.argv[2] ?? process.env.DATABASE_URL;
  if (!url) {
    console.error("usage: node bench.mjs <postgres-url>");
    process.exit(2);
  }
  return url;
}

export const payload = (i) => ({ i, filler: FILLER });

/** `jobs` payloads in batches. */
export function* batches(jobs) {
  for (let first = 0; first < jobs; first += BATCH) {
    yield Array.from({ length: Math.min(BATCH, jobs - first) }, (_, i) => payload(first + i));
  }
}

export function begin(name, count, server = undefined) {
  console.log(JSON.stringify({ begin: name, count, server }));
}

function report(name, value, unit, p50 = null, p99 = null) {
  const round = (n) => n === null ? null : Math.round(n * 100) / 100;
  console.log(JSON.stringify({ name, value: round(value), unit, p50: round(p50), p99: round(p99) }));
}

/** Measures how many of `count` items `work` does in a second. */
export async function rate(name, unit, count, work, server = undefined) {
  begin(name, count, server);
  const since = performance.now();
  await work();
  report(name, count / ((performance.now() - since) / 1000), unit);
}

/** Reports times in ms by their median and 99th percentile. */
export function times(name, values) {
  const sorted = [...values].sort((a, b) => a - b);
  const quantile = (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
  report(name, quantile(0.5), "ms", quantile(0.5), quantile(0.99));
}

/** `count` items, `width` at a time. */
export async function closedLoop(width, count, one) {
  let next = 0;
  await Promise.all(Array.from({ length: width }, async () => {
    while (next < count) await one(next++);
  }));
}

/** `count` items at a fixed rate, whether or not the earlier ones are done. */
export async function openLoop(perSecond, count, one) {
  const since = performance.now();
  const sends = [];
  for (let i = 0; i < count; i += 1) {
    await sleep(Math.max(0, since + (i * 1000) / perSecond - performance.now()));
    sends.push(one(i));
  }
  await Promise.all(sends);
}

/** Times from `sent(i)` to `started(i)`, and a promise that is kept when `count` have started. */
export function startTimes(count) {
  const sentAt = [];
  const values = [];
  const all = Promise.withResolvers();
  return {
    sent: (i) => (sentAt[i] = performance.now()),
    started: (i) => {
      values.push(performance.now() - sentAt[i]);
      if (values.length === count) all.resolve();
    },
    all: all.promise,
    values,
  };
}

/** The three figures of a system that runs workflows of three steps; `one(i)` is kept when run i has ended. */
export async function threeSteps(one, server = undefined) {
  await closedLoop(10, 100, one);
  await rate("three-step-runs-per-second", "runs/s", SIZES.runs, () => closedLoop(AT_A_TIME, SIZES.runs, one), server);
  const all = () => closedLoop(SIZES.runs, SIZES.runs, one);
  await rate("three-step-runs-per-second-unbounded", "runs/s", SIZES.runs, all, server);
  const alone = [];
  begin("three-step-alone", SIZES.runsAlone, server);
  await closedLoop(1, SIZES.runsAlone, async (i) => {
    const since = performance.now();
    await one(i);
    alone.push(performance.now() - since);
  });
  times("three-step-alone", alone);
}
