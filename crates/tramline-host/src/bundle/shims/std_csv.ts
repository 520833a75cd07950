import { parse as parseRows } from "npm:csv-parse@5.6.0/sync";
import { stringify as stringifyRows } from "npm:csv-stringify@6.5.2/sync";

type Reading = { skipFirstRow?: boolean; columns?: readonly (string | { name: string })[]; separator?: string; comment?: string };
type Writing = { columns?: readonly unknown[]; separator?: string; headers?: boolean };

const nameOf = (column: unknown) => typeof column === "object" ? (column as { name: string }).name : String(column);

export function parse(text: string, options: Reading = {}): unknown[] {
  const columns = options.columns?.map(nameOf) ?? (options.skipFirstRow ? true : false);
  return parseRows(text, {
    bom: true,
    columns,
    comment: options.comment,
    delimiter: options.separator ?? ",",
    from: options.columns && options.skipFirstRow ? 2 : 1,
    skip_empty_lines: true,
  });
}
export function stringify(rows: readonly unknown[], options: Writing = {}): string {
  const columns = options.columns?.map((column) => ({ key: nameOf(column), header: nameOf(column) }));
  return stringifyRows(rows as unknown[][], {
    columns,
    delimiter: options.separator ?? ",",
    header: columns !== undefined && options.headers !== false,
    record_delimiter: "\r\n",
  });
}
