// `middleware.ts` of hono on deno.land/x: all of them at once.
export { basicAuth } from "npm:hono@4/basic-auth";
export { bearerAuth } from "npm:hono@4/bearer-auth";
export { compress } from "npm:hono@4/compress";
export { cors } from "npm:hono@4/cors";
export { etag } from "npm:hono@4/etag";
export { jwt } from "npm:hono@4/jwt";
export { logger } from "npm:hono@4/logger";
export { poweredBy } from "npm:hono@4/powered-by";
export { prettyJSON } from "npm:hono@4/pretty-json";
export { secureHeaders } from "npm:hono@4/secure-headers";
export { timing } from "npm:hono@4/timing";
