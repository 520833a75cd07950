import { parseAllDocuments } from "npm:yaml@2.8.1";
export { parse, stringify } from "npm:yaml@2.8.1";
export const parseAll = (text: string): unknown[] => [...parseAllDocuments(text)].map((one) => (one as { toJS(): unknown }).toJS());
