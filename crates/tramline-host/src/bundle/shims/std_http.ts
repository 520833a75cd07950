export * from "./std_http_cookie.ts";
export * from "./std_http_server.ts";
export * from "./std_http_status.ts";
