// Measures DBOS: workflows of three steps that do nothing, on the Postgres that tramline is measured on.
//
//   npm ci && ../node/node_modules/.bin/node bench.mjs <postgres-url>
//
// Keeps its tables in the schema dbos of that database.
import assert from "node:assert/strict";
import { DBOS } from "@dbos-inc/dbos-sdk";
import { databaseUrl, payload, threeSteps } from "../common.mjs";

const STEPS = ["one", "two", "three"];

const workflow = DBOS.registerWorkflow(async (input) => {
  let output = input;
  for (const name of STEPS) {
    const given = output;
    output = await DBOS.runStep(async () => given, { name });
  }
  return output;
}, { name: "three" });

DBOS.setConfig({ name: "bench", systemDatabaseUrl: databaseUrl(), logLevel: "error", runAdminServer: false });
await DBOS.launch();

await threeSteps(async (i) => {
  const handle = await DBOS.startWorkflow(workflow)(payload(i));
  const output = await handle.getResult();
  assert.equal(output.i, i);
});

await DBOS.shutdown();
process.exit(0);
