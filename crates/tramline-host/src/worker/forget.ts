// Takes out of Deno's cache of compiled code what was compiled of bundles that are gone. The arguments are the cache's folder
// and the folder of bundles, which alone are looked at. Free pages of the database are filled again.
import { DatabaseSync } from "node:sqlite";

const [cache, bundles] = Deno.args;
const database = new DatabaseSync(cache + "/v8_code_cache_v2", { timeout: 5_000 });
const below = new URL("file://" + bundles + "/").href;
const isGone = (specifier: string) => {
  try {
    Deno.statSync(new URL(specifier));
    return false;
  } catch (error) {
    return error instanceof Deno.errors.NotFound;
  }
};
const known = database.prepare("select distinct specifier from codecache where substr(specifier, 1, ?) = ?");
const forget = database.prepare("delete from codecache where specifier = ?");
for (const { specifier } of known.all(below.length, below)) {
  if (isGone(String(specifier))) forget.run(specifier);
}
database.close();
