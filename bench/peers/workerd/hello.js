export default {
  fetch: () => Response.json({ message: "hello" }),
};
