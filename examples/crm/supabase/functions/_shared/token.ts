import { platformEnv } from "./env.ts";

/** Claims of a signed link: for whom, for what, until when (seconds since 1970). */
export interface Claims {
  sub: string;
  purpose: string;
  exp: number;
}

const encoder = new TextEncoder();

function toBase64Url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function fromBase64Url(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (char) => char.charCodeAt(0));
}

function hmacKey(): Promise<CryptoKey> {
  const secret = Deno.env.get("DIGEST_TOKEN_SECRET") || platformEnv("SUPABASE_SERVICE_ROLE_KEY");
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  // The prefix keeps these signatures apart from anything else that is signed with the same key.
  return crypto.subtle.importKey("raw", encoder.encode(`link:${secret}`), algorithm, false, ["sign", "verify"]);
}

/** `<claims>.<signature>`, both base64url. */
export async function signToken(claims: Claims): Promise<string> {
  const body = toBase64Url(encoder.encode(JSON.stringify(claims)));
  const signature = await crypto.subtle.sign("HMAC", await hmacKey(), encoder.encode(body));
  return `${body}.${toBase64Url(new Uint8Array(signature))}`;
}

/** The claims of a genuine, unexpired token made for this purpose, else null. */
export async function verifyToken(token: string, purpose: string): Promise<Claims | null> {
  try {
    const [body, signature] = token.split(".");
    const genuine = await crypto.subtle.verify("HMAC", await hmacKey(), fromBase64Url(signature), encoder.encode(body));
    if (!genuine) return null;
    const claims: Claims = JSON.parse(new TextDecoder().decode(fromBase64Url(body)));
    return claims.purpose === purpose && claims.exp > Date.now() / 1000 ? claims : null;
  } catch {
    return null; // not base64url, or not two parts
  }
}
