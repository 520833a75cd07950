import { Buffer } from "node:buffer";
import { timingSafeEqual as equal } from "node:crypto";
export const crypto = globalThis.crypto;
const bytesOf = (data: ArrayBuffer | ArrayBufferView) =>
  ArrayBuffer.isView(data) ? Buffer.from(data.buffer, data.byteOffset, data.byteLength) : Buffer.from(data);
export function timingSafeEqual(a: ArrayBuffer | ArrayBufferView, b: ArrayBuffer | ArrayBufferView): boolean {
  return a.byteLength === b.byteLength && equal(bytesOf(a), bytesOf(b));
}
