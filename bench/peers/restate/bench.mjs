// Measures Restate: a server of its own (one node, its default configuration, which is durable) and handlers of three
// steps that do nothing, called through its ingress over kept connections.
//
//   npm ci && ../node/node_modules/.bin/node bench.mjs
//
// Everything listens on free ports of 127.0.0.1; files are in RESTATE_DIR (a folder that is emptied first).
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import net from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { payload, threeSteps } from "../common.mjs";

// Else two lines for every run; read when the module is loaded.
process.env.RESTATE_LOGGING ??= "ERROR";
const restate = await import("@restatedev/restate-sdk");

const STEPS = ["one", "two", "three"];
const PATIENCE_MS = 60_000;
const LOOK_MS = 100;

async function freePort() {
  const server = net.createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

// A workflow is keyed by its id, as tramline's runs are, and is the faster of Restate's two forms.
const three = restate.workflow({
  name: "three",
  handlers: {
    run: async (ctx, input) => {
      let output = input;
      for (const name of STEPS) {
        const given = output;
        output = await ctx.run(name, async () => given);
      }
      return output;
    },
  },
});
const endpoint = http2.createServer(restate.endpoint().bind(three).http2Handler());
await new Promise((done) => endpoint.listen(0, "127.0.0.1", done));

const folder = process.env.RESTATE_DIR ?? path.join(import.meta.dirname, "node_modules/.restate");
fs.rmSync(folder, { recursive: true, force: true });
fs.mkdirSync(folder, { recursive: true });
const [ingress, admin, fabric] = [await freePort(), await freePort(), await freePort()];
const arch = process.arch === "arm64" ? "arm64" : "x64";
const program = path.join(import.meta.dirname, `node_modules/@restatedev/restate-server-linux-${arch}/bin/restate-server`);
const server = spawn(program, ["--no-logo", "--base-dir", folder, "--log-filter", "error", "--listen-mode", "tcp", "--bind-ip", "127.0.0.1", "--bind-port", fabric], {
  env: {
    ...process.env,
    DO_NOT_TRACK: "1",
    RESTATE_DISABLE_TELEMETRY: "true",
    RESTATE_INGRESS__BIND_PORT: ingress,
    RESTATE_ADMIN__BIND_PORT: admin,
  },
  stdio: ["ignore", "ignore", fs.openSync(path.join(folder, "server.log"), "w")],
});
process.on("exit", () => server.kill("SIGKILL"));
server.on("exit", (code) => {
  console.error(`restate-server ended with ${code}; see ${folder}/server.log`);
  process.exit(1);
});

async function until(what, reached) {
  const giveUp = performance.now() + PATIENCE_MS;
  while (!await reached().catch(() => false)) {
    if (performance.now() > giveUp) throw new Error(`waited too long for ${what}`);
    await sleep(LOOK_MS);
  }
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 256 });

function call(workflow, value) {
  const body = JSON.stringify(value);
  const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
  return new Promise((resolve, reject) => {
    const request = http.request({ host: "127.0.0.1", port: ingress, path: `/three/${workflow}/run`, method: "POST", agent, headers }, (response) => {
      let text = "";
      response.on("data", (part) => (text += part));
      response.on("end", () => response.statusCode === 200 ? resolve(JSON.parse(text)) : reject(new Error(`${response.statusCode} ${text}`)));
    });
    request.on("error", reject);
    request.end(body);
  });
}

let runs = 0;
async function one(i) {
  const output = await call(`run-${runs++}`, payload(i));
  assert.equal(output.i, i);
}

await until("the server", async () => (await fetch(`http://127.0.0.1:${admin}/health`)).ok);
await until("the deployment", async () => {
  const uri = `http://127.0.0.1:${endpoint.address().port}`;
  const answer = await fetch(`http://127.0.0.1:${admin}/deployments`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ uri }),
  });
  return answer.ok;
});
await until("the first run", async () => {
  await one(0);
  return true;
});

await threeSteps(one, server.pid);

server.removeAllListeners("exit");
server.kill("SIGKILL");
fs.rmSync(folder, { recursive: true, force: true });
process.exit(0);
