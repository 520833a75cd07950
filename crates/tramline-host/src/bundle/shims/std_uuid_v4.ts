import { v4 } from "./std_uuid.ts";
export const { generate, validate } = v4;
