export const MILLISECOND = 1, SECOND = 1_000, MINUTE = 60_000, HOUR = 3_600_000, DAY = 86_400_000, WEEK = 604_800_000;

const TOKENS = /'([^']*)'|yyyy|yy|MM?|dd?|HH?|hh?|mm?|ss?|S{1,3}|a/g;

export function format(date: Date, pattern: string, options: { utc?: boolean; timeZone?: "UTC" } = {}): string {
  const utc = options.utc || options.timeZone === "UTC";
  const of = (part: "FullYear" | "Month" | "Date" | "Hours" | "Minutes" | "Seconds" | "Milliseconds") =>
    utc ? date[`getUTC${part}`]() : date[`get${part}`]();
  const hour12 = of("Hours") % 12 || 12;
  const values: Record<string, number> = {
    M: of("Month") + 1, d: of("Date"), H: of("Hours"), h: hour12, m: of("Minutes"), s: of("Seconds"),
  };
  return pattern.replace(TOKENS, (token, quoted?: string) => {
    if (quoted !== undefined) return quoted;
    if (token === "yyyy") return String(of("FullYear")).padStart(4, "0");
    if (token === "yy") return String(of("FullYear")).slice(-2);
    if (token === "a") return of("Hours") < 12 ? "AM" : "PM";
    if (token[0] === "S") return String(of("Milliseconds")).padStart(3, "0").slice(0, token.length);
    return String(values[token[0]]).padStart(token.length, "0");
  });
}
export const isLeap = (year: Date | number): boolean => {
  const y = year instanceof Date ? year.getFullYear() : year;
  return (y % 4 === 0 && y % 100 !== 0) || y % 400 === 0;
};
export const dayOfYear = (date: Date): number =>
  Math.floor((Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - Date.UTC(date.getFullYear(), 0, 0)) / DAY);
export function difference(from: Date, to: Date): Record<string, number> {
  const ms = Math.abs(to.getTime() - from.getTime());
  const whole = (unit: number) => Math.floor(ms / unit);
  return { milliseconds: ms, seconds: whole(SECOND), minutes: whole(MINUTE), hours: whole(HOUR), days: whole(DAY), weeks: whole(WEEK) };
}
