// The functions' variables are in their environment already; a function has no file of them.
import { parseEnv } from "node:util";
const all = (): Record<string, string> => Deno.env.toObject();
export const parse = (text: string): Record<string, string> => parseEnv(text) as Record<string, string>;
export const load = (_options?: unknown): Promise<Record<string, string>> => Promise.resolve(all());
export const loadSync = (_options?: unknown): Record<string, string> => all();
// of version 3 on deno.land/x: sync, and awaited by some
export const config = (_options?: unknown): Record<string, string> => all();
export const configSync = config;
export const configAsync = load;
