/** Numbers as people read them. */

export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const magnitude = Math.abs(value);
  if (magnitude >= 100) return `${Math.round(value)} s`;
  if (magnitude >= 1) return `${value.toPrecision(3)} s`;
  if (magnitude >= 1e-3) return `${(value * 1e3).toPrecision(3)} ms`;
  return `${(value * 1e6).toPrecision(3)} µs`;
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
  return `${at === 0 ? size : size.toPrecision(3)} ${units[at]}`;
}

export function count(value: number): string {
  if (value >= 1e9) return `${(value / 1e9).toPrecision(3)} G`;
  if (value >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (value >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  return String(value);
}

export function percent(fraction: number | null | undefined): string {
  if (fraction === null || fraction === undefined || !Number.isFinite(fraction)) return "–";
  const value = fraction * 100;
  return `${Math.abs(value) < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

/** "3 cores", "1 core"; a unit that is a measure ("percent") has no plural. */
export function shares(units: number, unit: string): string {
  if (unit === "percent" || unit === "%") return `${units} %`;
  return `${units} ${unit}${units === 1 || unit.endsWith("s") ? "" : "s"}`;
}
