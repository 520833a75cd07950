Deno.serve(async (request) => {
  const body = await request.json().catch(() => ({}));
  return Response.json({ message: `Hello ${body.name ?? "world"}!` });
});
