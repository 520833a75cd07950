// POST /functions/v1/__NAME__ answers with a greeting: replace it by what the function is for.
Deno.serve(async (request) => {
  const { name = "world" } = await request.json().catch(() => ({}));
  return Response.json({ message: `Hello ${name}!` });
});
