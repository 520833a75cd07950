export interface Issue {
  path: string;
  message: string;
}

/** An answer other than success that the caller is meant to see. */
export class HttpError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly issues?: Issue[],
  ) {
    super(message);
  }
}

export function json(body: unknown, status = 200): Response {
  return Response.json(body, { status });
}

/** What went wrong as status and body; only the log learns about unexpected errors. */
export function describeError(error: unknown) {
  if (error instanceof HttpError) {
    const { code, message, issues } = error;
    return { status: error.status, error: issues ? { code, message, issues } : { code, message } };
  }
  console.error("unexpected error:", error);
  return { status: 500, error: { code: "internal_error", message: "something went wrong" } };
}

export async function readJson(req: Request): Promise<unknown> {
  try {
    return await req.json();
  } catch {
    throw new HttpError(400, "invalid_json", "the body is not valid JSON");
  }
}

/** The part of a zod schema that is needed here, so that functions may use different versions of zod. */
interface Schema<T> {
  safeParse(value: unknown):
    | { success: true; data: T }
    | { success: false; error: { issues: { path: PropertyKey[]; message: string }[] } };
}

/** The checked value, or 400 with everything that is wrong with it. */
export function parse<T>(schema: Schema<T>, value: unknown, what = "body"): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issues = result.error.issues.map(({ path, message }) => ({ path: path.map(String).join("."), message }));
  throw new HttpError(400, `invalid_${what}`, `the ${what} is not valid`, issues);
}
