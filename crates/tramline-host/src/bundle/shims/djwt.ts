// `deno.land/x/djwt` over jose, which compares the algorithm of a token with its key.
import { base64url, CompactSign, compactVerify } from "npm:jose@5.10.0";

type Key = CryptoKey | string | null;
type Header = { alg: string; [name: string]: unknown };
type Payload = { exp?: number; nbf?: number; aud?: string | string[]; [name: string]: unknown };
type Options = {
  expLeeway?: number;
  nbfLeeway?: number;
  ignoreExp?: boolean;
  ignoreNbf?: boolean;
  audience?: string | string[] | RegExp;
  predicates?: ((payload: Payload) => boolean)[];
};

const encoder = new TextEncoder(), decoder = new TextDecoder();

// versions before 2.3 took the text of a secret
function keyOf(key: Key): CryptoKey | Uint8Array {
  if (key === null) throw new TypeError("a key is needed to sign and to verify");
  return typeof key === "string" ? encoder.encode(key) : key;
}

export function getNumericDate(when: Date | number): number {
  return Math.round((when instanceof Date ? when.getTime() : Date.now() + when * 1000) / 1000);
}

export async function create(header: Header, payload: Payload, key: Key): Promise<string> {
  const body = encoder.encode(JSON.stringify(payload));
  return await new CompactSign(body).setProtectedHeader(header).sign(keyOf(key));
}

export async function verify(token: string, key: Key, options: Options | string = {}): Promise<Payload> {
  const algorithms = typeof options === "string" ? [options] : undefined;
  const { payload: body } = await compactVerify(token, keyOf(key), { algorithms });
  const payload = JSON.parse(decoder.decode(body)) as Payload;
  const rules = typeof options === "string" ? {} : options;
  const now = Date.now() / 1000;
  if (!rules.ignoreExp && payload.exp !== undefined && !(payload.exp > now - (rules.expLeeway ?? 1))) {
    throw new RangeError("The jwt is expired.");
  }
  if (!rules.ignoreNbf && payload.nbf !== undefined && !(payload.nbf < now + (rules.nbfLeeway ?? 1))) {
    throw new RangeError("The jwt is used too early.");
  }
  if (rules.audience !== undefined) {
    const shown = [payload.aud ?? []].flat(), wanted = rules.audience;
    const fits = (one: string) => wanted instanceof RegExp ? wanted.test(one) : [wanted].flat().includes(one);
    if (!shown.some(fits)) throw new Error("The identification with the value in the aud claim has failed.");
  }
  if (rules.predicates?.some((holds) => !holds(payload))) throw new Error("The payload does not satisfy all passed predicates.");
  return payload;
}

export function decode(token: string): [unknown, unknown, Uint8Array] {
  const parts = token.split(".");
  if (parts.length !== 3) throw new TypeError("The serialization of the jwt is invalid.");
  const json = (part: string) => JSON.parse(decoder.decode(base64url.decode(part)));
  return [json(parts[0]), json(parts[1]), base64url.decode(parts[2])];
}
