// `std/hash`, which ended with version 0.160.
import { Buffer } from "node:buffer";
import { createHash as nodeHash, createHmac } from "node:crypto";

type Message = string | ArrayBuffer | ArrayBufferView;
const bufferOf = (data: Exclude<Message, string>) =>
  ArrayBuffer.isView(data) ? Buffer.from(data.buffer, data.byteOffset, data.byteLength) : Buffer.from(data);

class Hasher {
  #hash;
  constructor(algorithm: string, key?: Message) {
    const secret = typeof key === "string" || key === undefined ? key : bufferOf(key);
    this.#hash = secret === undefined ? nodeHash(algorithm) : createHmac(algorithm, secret);
  }
  update(message: Message): this {
    this.#hash.update(typeof message === "string" ? message : bufferOf(message));
    return this;
  }
  digest = (): ArrayBuffer => new Uint8Array(this.#hash.digest()).buffer;
  arrayBuffer = (): ArrayBuffer => this.digest();
  array = (): number[] => [...new Uint8Array(this.digest())];
  hex = (): string => this.toString("hex");
  toString(format: "hex" | "base64" = "hex"): string {
    return this.#hash.digest(format);
  }
}

export const createHash = (algorithm: string): Hasher => new Hasher(algorithm);
const plain = (algorithm: string) => class extends Hasher { constructor() { super(algorithm); } };
const keyed = (algorithm: string) => class extends Hasher { constructor(key: Message) { super(algorithm, key); } };
export const Md5 = plain("md5"), Sha1 = plain("sha1"), Sha256 = plain("sha256"), Sha512 = plain("sha512");
export const HmacSha1 = keyed("sha1"), HmacSha256 = keyed("sha256"), HmacSha512 = keyed("sha512");
