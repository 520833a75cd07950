const bytesOf = (data: ArrayBuffer | Uint8Array | string): Uint8Array =>
  typeof data === "string" ? new TextEncoder().encode(data) : data instanceof Uint8Array ? data : new Uint8Array(data);
export function encodeBase64(data: ArrayBuffer | Uint8Array | string): string {
  let text = "";
  for (const byte of bytesOf(data)) text += String.fromCharCode(byte);
  return btoa(text);
}
export function decodeBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}
export { decodeBase64 as decode, encodeBase64 as encode };
