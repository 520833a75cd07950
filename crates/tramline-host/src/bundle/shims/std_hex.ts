export function encodeHex(data: ArrayBuffer | Uint8Array | string): string {
  const bytes = typeof data === "string"
    ? new TextEncoder().encode(data)
    : data instanceof Uint8Array
    ? data
    : new Uint8Array(data);
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}
export function decodeHex(text: string): Uint8Array {
  if (text.length % 2 !== 0 || /[^0-9a-fA-F]/.test(text)) throw new TypeError("not a hexadecimal text");
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}
// the older names work on bytes
export const encode = (data: Uint8Array): Uint8Array => new TextEncoder().encode(encodeHex(data));
export const decode = (data: Uint8Array): Uint8Array => decodeHex(new TextDecoder().decode(data));
export const encodeToString = encodeHex;
export const decodeString = decodeHex;
