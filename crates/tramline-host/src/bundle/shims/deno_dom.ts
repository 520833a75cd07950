// `deno.land/x/deno_dom` over linkedom.
import { DOMParser as Parser } from "npm:linkedom@0.18.12";
export { Comment, Document, DocumentFragment, Element, Node, NodeList, Text } from "npm:linkedom@0.18.12";
export { Document as HTMLDocument } from "npm:linkedom@0.18.12";
export class DOMParser {
  // the original makes a whole page of every fragment
  parseFromString(text: string, type = "text/html") {
    const isPage = /<html[\s>]/i.test(text);
    const page = isPage ? text : `<!DOCTYPE html><html><head></head><body>${text}</body></html>`;
    return new Parser().parseFromString(page, type as "text/html");
  }
}
export const initParser = (): Promise<void> => Promise.resolve();
