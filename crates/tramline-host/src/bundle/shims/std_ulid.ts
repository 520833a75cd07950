export { decodeTime, monotonicFactory, ulid } from "npm:ulid@2.3.0";
