import path from "node:path/posix";
import { fileURLToPath, pathToFileURL } from "node:url";
export * from "node:path/posix";
export const fromFileUrl = (url: string | URL): string => fileURLToPath(url);
export const toFileUrl = (file: string): URL => pathToFileURL(file);
export const SEP = path.sep;
export const SEPARATOR = path.sep;
export default path;
