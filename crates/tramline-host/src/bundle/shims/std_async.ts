export function delay(ms: number, options: { signal?: AbortSignal } = {}): Promise<void> {
  const { signal } = options;
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const abort = () => (clearTimeout(timer), reject(signal?.reason));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", abort), resolve()), ms);
    signal?.addEventListener("abort", abort, { once: true });
  });
}
export function deadline<T>(promise: Promise<T>, ms: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new DOMException("Signal timed out.", "TimeoutError")), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
export class RetryError extends Error {
  constructor(cause: unknown, attempts: number) {
    super(`Retrying exceeded the maxAttempts (${attempts}).`, { cause });
    this.name = "RetryError";
  }
}
type Retry = { maxAttempts?: number; minTimeout?: number; maxTimeout?: number; multiplier?: number; jitter?: number };
export async function retry<T>(work: () => T | Promise<T>, options: Retry = {}): Promise<T> {
  const { maxAttempts = 5, minTimeout = 1_000, maxTimeout = 60_000, multiplier = 2, jitter = 1 } = options;
  for (let attempt = 1;; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt >= maxAttempts) throw new RetryError(error, maxAttempts);
      const pause = Math.min(maxTimeout, minTimeout * multiplier ** (attempt - 1));
      await delay(pause * (1 - jitter * Math.random()));
    }
  }
}
export async function* pooledMap<T, R>(limit: number, items: Iterable<T> | AsyncIterable<T>, work: (item: T) => Promise<R>): AsyncGenerator<R> {
  const running: Promise<R>[] = [];
  for await (const item of items) {
    running.push(work(item));
    if (running.length >= limit) yield await running.shift()!;
  }
  for (const last of running) yield await last;
}
export function debounce<A extends unknown[]>(work: (...args: A) => void, wait: number) {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const later = (...args: A) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), wait);
  };
  return Object.assign(later, { clear: () => clearTimeout(timer) });
}
