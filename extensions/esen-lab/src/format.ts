/** Numbers as people read them. */

/** Three significant digits, never with an exponent: 999.6 is "1000". */
function digits(value: number): string {
  const written = value.toPrecision(3);
  return written.includes("e") ? String(Math.round(value)) : written;
}

export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const magnitude = Math.abs(value);
  if (magnitude >= 100) return `${Math.round(value)} s`;
  if (magnitude >= 1) return `${digits(value)} s`;
  if (magnitude >= 1e-3) return `${digits(value * 1e3)} ms`;
  return `${digits(value * 1e6)} µs`;
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let at = 0;
  while (size >= 1000 && at < units.length - 1) {
    size /= 1000;
    at += 1;
  }
  return `${at === 0 ? size : digits(size)} ${units[at]}`;
}

export function count(value: number): string {
  if (value >= 1e9) return `${digits(value / 1e9)} G`;
  if (value >= 1e6) return `${digits(value / 1e6)} M`;
  if (value >= 1e4) return `${digits(value / 1e3)} k`;
  return String(value);
}

export function percent(fraction: number | null | undefined): string {
  if (fraction === null || fraction === undefined || !Number.isFinite(fraction)) return "–";
  const value = fraction * 100;
  return `${Math.abs(value) < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

/** "3 cores", "1 core", "2 groups of 8 SMs"; a unit that is a measure ("percent") has no plural. */
export function shares(units: number, unit: string): string {
  if (unit === "percent" || unit === "%") return `${units} %`;
  if (units === 1) return `1 ${unit}`;
  const [what, ...rest] = unit.split(" of ");
  return [`${units} ${what}${what.endsWith("s") ? "" : "s"}`, ...rest].join(" of ");
}
