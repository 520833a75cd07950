// --- calls ------------------------------------------------------------------------------------------------------

// The host writes `/~<run>~<depth>~<token>~<request>` before the path of every call, `-` for what there is not. It stands in
// the address and not in headers, because the function may change those, and because looking at them costs more than
// everything else here.
function contextOf(call: Call | undefined) {
  let text = call ?? "";
  if (slice(text, 0, INNER.length) === INNER) {
    const from = indexOf(text, "/", INNER.length) + 1;
    text = slice(text, from, indexOf(text, "/", from));
  }
  const parts = split(text, "~");
  const part = (i: number) => parts[i] === undefined || parts[i] === "-" ? null : decode(parts[i]);
  return { runId: part(1), depth: part(2), token: part(3), requestId: part(4) };
}

// Functions expect the address that their caller used. It is made when it is asked for.
function installUrl() {
  define(Request.prototype, "url", {
    get(this: Request): string {
      const url = innerUrlOf(this);
      if (slice(url, 0, INNER.length) !== INNER) return url;
      const at = indexOf(url, "/", INNER.length);
      const path = slice(url, indexOf(url, "/", at + 1), url.length);
      let host = slice(url, INNER.length, at), scheme = "http";
      try {
        const headers = headersOf(this);
        host = getHeader(headers, "x-forwarded-host") ?? host;
        scheme = getHeader(headers, "x-forwarded-proto") ?? scheme;
      } catch {
        // it was answered long ago, and nothing else of it is left
      }
      const value = scheme + "://" + host + path;
      define(this, "url", { value, configurable: true });
      return value;
    },
    configurable: true,
    enumerable: true,
  });
}

