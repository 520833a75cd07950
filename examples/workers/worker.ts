// A worker for a pull queue, over tramline's HTTP API. No dependencies; Deno, or Node 22.18 and newer:
//
//   TRAMLINE_URL=http://127.0.0.1:54321 TRAMLINE_KEY=<service role key> deno run --allow-net --allow-env worker.ts
//
// It takes runs until it is stopped; with --once it ends when the queue is empty. SIGINT and SIGTERM let the present run end first.
import process from "node:process";

interface Run {
  run_id: string;
  target: string;
  input: Record<string, unknown>;
  attempt: number;
  fence: number;
}

interface Artifact {
  name: string;
  kind?: string;
  uri?: string;
  sha256?: string;
  bytes?: number;
  metadata?: Record<string, unknown>;
  validated?: boolean;
}

/** What a handler may do besides its work. `lost` is aborted when the run was taken away: stop then, nobody wants the result. */
interface Job {
  run: Run;
  lost: AbortSignal;
  log(message: string, payload?: Record<string, unknown>): Promise<void>;
  artifact(artifact: Artifact): Promise<void>;
}

// ---- your work: one handler for each target --------------------------------------------------------------------

const handlers: Record<string, (job: Job) => Promise<unknown>> = {
  /** Hashes a text. */
  async checksum({ run, log, artifact }) {
    const bytes = new TextEncoder().encode(String(run.input.text ?? ""));
    await log("hashing", { bytes: bytes.length });
    const sha256 = hex(await crypto.subtle.digest("SHA-256", bytes));
    await artifact({ name: "text", kind: "text", sha256, bytes: bytes.length, validated: true });
    return { sha256 };
  },

  /** Takes a while, and stops at once when the run is cancelled. */
  async wait({ run, lost }) {
    await new Promise<void>((done, stop) => {
      const timer = setTimeout(done, Number(run.input.ms ?? 1_000));
      lost.addEventListener("abort", () => (clearTimeout(timer), stop(lost.reason)));
    });
    return { waited: true };
  },
};

// ---- the worker ------------------------------------------------------------------------------------------------

const env = (name: string, otherwise?: string): string => {
  const value = process.env[name] ?? otherwise;
  if (value === undefined) {
    console.error(`error: ${name} is not set`);
    process.exit(2);
  }
  return value;
};

const url = env("TRAMLINE_URL").replace(/\/+$/, "");
const key = env("TRAMLINE_KEY");
const queue = env("TRAMLINE_QUEUE", "ops");
const workerId = env("TRAMLINE_WORKER", `ts-${process.pid}`);
const leaseSeconds = Number(env("TRAMLINE_LEASE_SECONDS", "60"));
const once = process.argv.includes("--once");
/** Long enough to be cheap, below what proxies allow. */
const WAIT_SECONDS = 20;
/** Between two tries while the node does not answer. */
const PAUSE_MS = 1_000;

class Refused extends Error {
  constructor(readonly status: number, readonly code: string, message: string) {
    super(message);
  }
}

/** One request. A node that is not there or stops is asked again: everything here may be said twice. */
async function post<T>(path: string, body: unknown): Promise<T> {
  for (;;) {
    let why: string;
    try {
      const response = await fetch(`${url}/api/v1${path}`, {
        method: "POST",
        headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout((WAIT_SECONDS + 30) * 1_000),
      });
      const answer = await response.json();
      if (response.ok) return answer as T;
      if (response.status < 500) throw new Refused(response.status, answer.code, answer.message);
      why = `${response.status} ${answer.message}`;
    } catch (error) {
      if (error instanceof Refused) throw error;
      why = String(error);
    }
    console.error(`trying again: ${why}`);
    await new Promise((next) => setTimeout(next, PAUSE_MS));
  }
}

async function work(run: Run): Promise<void> {
  const { run_id, fence } = run;
  const lost = new AbortController();
  const beat = setInterval(async () => {
    try {
      await post(`/runs/${run_id}/heartbeat`, { fence });
    } catch (error) {
      lost.abort(error);
    }
  }, leaseSeconds * 1_000 / 3);
  const job: Job = {
    run,
    lost: lost.signal,
    log: async (message, payload = {}) => void await post(`/runs/${run_id}/events`, { message, payload, fence }),
    artifact: async (artifact) => void await post(`/runs/${run_id}/artifacts`, { ...artifact, fence }),
  };
  try {
    const handler = handlers[run.target];
    if (!handler) throw new Error(`this worker has no handler for ${run.target}`);
    const output = await handler(job);
    await post(`/runs/${run_id}/finish`, { status: "completed", output: output ?? null, worker_id: workerId, fence });
    console.log(`${run_id} ${run.target} completed`);
  } catch (error) {
    if (lost.signal.aborted || (error instanceof Refused && error.code === "CLAIM_LOST")) {
      console.log(`${run_id} ${run.target} lost: ${(lost.signal.reason ?? error).message}`);
      return;
    }
    const message = error instanceof Error ? error.message : String(error);
    await post(`/runs/${run_id}/finish`, { status: "failed", error: { code: "worker_failed", message }, worker_id: workerId, fence })
      .catch((refused) => console.log(`${run_id} ${run.target} lost: ${refused.message}`));
    console.log(`${run_id} ${run.target} failed: ${message}`);
  } finally {
    clearInterval(beat);
  }
}

function hex(bytes: ArrayBuffer): string {
  return [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

let stopping = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    stopping = true;
  });
}

while (!stopping) {
  const wait = once ? 0 : WAIT_SECONDS;
  const runs = await post<Run[]>(`/queues/${encodeURIComponent(queue)}/claim?wait=${wait}`, { worker_id: workerId, lease: leaseSeconds });
  if (once && runs.length === 0) break;
  for (const run of runs) await work(run);
}
