import node from "node:assert";
export { AssertionError } from "node:assert";
export const assert: (value: unknown, message?: string) => asserts value = node.ok;
export const assertEquals = (actual: unknown, expected: unknown, message?: string) => node.deepStrictEqual(actual, expected, message);
export const assertNotEquals = (actual: unknown, expected: unknown, message?: string) => node.notDeepStrictEqual(actual, expected, message);
export const assertStrictEquals = (actual: unknown, expected: unknown, message?: string) => node.strictEqual(actual, expected, message);
export const assertExists = (value: unknown, message?: string) => node.ok(value !== undefined && value !== null, message ?? "it is missing");
export const assertStringIncludes = (text: string, part: string, message?: string) => node.ok(text.includes(part), message ?? `${text} lacks ${part}`);
export const assertMatch = (text: string, pattern: RegExp, message?: string) => node.match(text, pattern, message);
export const assertInstanceOf = (value: unknown, kind: Function, message?: string) =>
  node.ok(value instanceof (kind as new () => unknown), message ?? `it is no ${kind.name}`);
export const assertThrows = (work: () => unknown, kind?: ErrorConstructor) => kind ? node.throws(work, kind) : node.throws(work);
export const assertRejects = (work: () => Promise<unknown>, kind?: ErrorConstructor) => kind ? node.rejects(work, kind) : node.rejects(work);
export const fail = (message?: string): never => node.fail(message);
export const unreachable = (message = "unreachable"): never => node.fail(message);
