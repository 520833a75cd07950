export { decodeBase64, encodeBase64 } from "./std_base64.ts";
export { decodeBase64Url, encodeBase64Url } from "./std_base64url.ts";
export { decodeHex, encodeHex } from "./std_hex.ts";
