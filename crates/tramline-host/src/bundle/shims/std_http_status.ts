import { STATUS_CODES } from "node:http";
export const STATUS_TEXT: Record<number, string> = { ...STATUS_CODES } as Record<number, string>;
const named: Record<string, number> = {};
for (const [code, text] of Object.entries(STATUS_TEXT)) {
  named[text.replace(/[^A-Za-z]/g, "")] = Number(code);
}
export const Status = named;
export const STATUS_CODE = named;
