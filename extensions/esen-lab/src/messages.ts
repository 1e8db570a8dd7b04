/**
 * Whether what a kernel says is a message: by the schema that the kernel checks pages with (messages.json, copied here
 * from esen_lab/ui/panel by tools/extension.py). Only those words of JSON Schema are understood that it needs.
 */

import schema from "./messages.json";
import { Sections } from "./protocol";

interface Rule {
  type?: string | string[];
  enum?: string[];
  minimum?: number;
  maximum?: number;
  maxLength?: number;
  maxItems?: number;
  items?: Rule;
  properties?: Record<string, Rule>;
  required?: string[];
  additionalProperties?: Rule;
}
type Rules = Record<string, Rule>;

const TO_PAGE = schema.to_page as Rules;
const MONITOR = schema.monitor as Rules;
const SECTIONS = schema.sections as unknown as Rules;

/** What is wrong with a message of a known kind, or "". One of a kind that is not known is not wrong. */
export function problemOf(message: { kind: string; [key: string]: unknown }): string {
  const rule = own(TO_PAGE, message.kind);
  const wrong = rule ? problem(message, rule) : "";
  if (wrong || message.kind !== "monitor") return wrong;
  const what = own(MONITOR, message.what as string);
  return what ? problem(message, what) : "";
}

/** Those of the sections that are as they should be; a wrong one is null, and `wrong` says why. */
export function sifted(given: object): { sections: Partial<Sections>; wrong: string } {
  const sections: Record<string, unknown> = {};
  let wrong = "";
  for (const [name, rule] of Object.entries(SECTIONS)) {
    if (!own(given as Record<string, unknown>, name)) {
      if (Object.prototype.hasOwnProperty.call(given, name)) sections[name] = null;
      continue;
    }
    const value = (given as Record<string, unknown>)[name];
    const found = problem(value, rule, name);
    sections[name] = found ? null : value;
    wrong = wrong || found;
  }
  return { sections: sections as Partial<Sections>, wrong };
}

/** What is wrong with a value, such as "have: array wanted, 5 given", or "". */
export function problem(value: unknown, rule: Rule, where = ""): string {
  const types = typeof rule.type === "string" ? [rule.type] : (rule.type ?? []);
  if (types.length && !types.some((type) => is(value, type))) {
    return wrong(where, `${types.join(" or ")} wanted`, value);
  }
  if (value === null) return "";
  if (rule.enum && !rule.enum.includes(value as string)) {
    return wrong(where, `one of ${rule.enum.join(", ")} wanted`, value);
  }
  if (typeof value === "string") {
    return value.length > (rule.maxLength ?? Infinity)
      ? wrong(where, "a shorter text wanted", value)
      : "";
  }
  if (typeof value === "number") {
    const { minimum = -Infinity, maximum = Infinity } = rule;
    return value >= minimum && value <= maximum
      ? ""
      : wrong(where, `${minimum} to ${maximum} wanted`, value);
  }
  if (Array.isArray(value)) {
    if (value.length > (rule.maxItems ?? Infinity)) {
      return wrong(where, `at most ${rule.maxItems} items wanted`, value.length);
    }
    const items = rule.items;
    return items ? first(value, (each, n) => problem(each, items, `${where}[${n}]`)) : "";
  }
  return typeof value === "object" ? problemOfObject(value, rule, where) : "";
}

function problemOfObject(value: object, rule: Rule, where: string): string {
  const given = value as Record<string, unknown>;
  const below = (name: string) => (where ? `${where}.${name}` : name);
  const missing = rule.required?.find((name) => !Object.prototype.hasOwnProperty.call(given, name));
  if (missing !== undefined) return `${below(missing)}: missing`;
  return first(Object.keys(given), (name) => {
    const wanted = own(rule.properties ?? {}, name) ?? rule.additionalProperties;
    return wanted ? problem(given[name], wanted, below(name)) : "";
  });
}

function is(value: unknown, type: string): boolean {
  switch (type) {
    case "null":
      return value === null;
    case "array":
      return Array.isArray(value);
    case "object":
      return typeof value === "object" && value !== null && !Array.isArray(value);
    case "integer":
      return Number.isSafeInteger(value);
    case "number":
      return Number.isFinite(value);
    default:
      return typeof value === type;
  }
}

/** A property of the object itself: "constructor" is none. */
function own<T>(all: Record<string, T>, name: string): T | undefined {
  return Object.prototype.hasOwnProperty.call(all, name) ? all[name] : undefined;
}

function first<T>(values: T[], of: (value: T, index: number) => string): string {
  for (let index = 0; index < values.length; index += 1) {
    const found = of(values[index], index);
    if (found) return found;
  }
  return "";
}

function wrong(where: string, wanted: string, value: unknown): string {
  const given = typeof value === "object" ? (value === null ? "null" : "an object") : String(value);
  return `${where || "message"}: ${wanted}, ${given.slice(0, 60)} given`;
}
