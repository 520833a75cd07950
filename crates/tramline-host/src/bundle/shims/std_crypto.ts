import { Buffer } from "node:buffer";
import { createHash, timingSafeEqual as equal } from "node:crypto";

type Bytes = ArrayBuffer | ArrayBufferView;
const NATIVE = /^SHA-(1|256|384|512)$/i;
const bufferOf = (data: Bytes) =>
  ArrayBuffer.isView(data) ? Buffer.from(data.buffer, data.byteOffset, data.byteLength) : Buffer.from(data);
const nameOf = (algorithm: AlgorithmIdentifier) => typeof algorithm === "string" ? algorithm : algorithm.name;

function digestSync(algorithm: AlgorithmIdentifier, data: Bytes): ArrayBuffer {
  // the names of WebCrypto have a hyphen that OpenSSL's lack
  const name = nameOf(algorithm).toLowerCase().replace(/^sha-/, "sha").replace("ripemd-", "ripemd");
  return new Uint8Array(createHash(name).update(bufferOf(data)).digest()).buffer;
}

// what WebCrypto lacks, MD5 before all
const subtle = new Proxy(globalThis.crypto.subtle, {
  get(target, name) {
    if (name === "digestSync") return digestSync;
    if (name === "digest") {
      return async (algorithm: AlgorithmIdentifier, data: Bytes) =>
        NATIVE.test(nameOf(algorithm)) ? await target.digest(algorithm, data as BufferSource) : digestSync(algorithm, data);
    }
    const value = target[name as keyof SubtleCrypto];
    return typeof value === "function" ? value.bind(target) : value;
  },
});

export const crypto = {
  subtle,
  getRandomValues: globalThis.crypto.getRandomValues.bind(globalThis.crypto),
  randomUUID: globalThis.crypto.randomUUID.bind(globalThis.crypto),
};
export function timingSafeEqual(a: Bytes, b: Bytes): boolean {
  return a.byteLength === b.byteLength && equal(bufferOf(a), bufferOf(b));
}
export const toHashString = (hash: ArrayBuffer, encoding: "hex" | "base64" = "hex"): string => Buffer.from(hash).toString(encoding);
