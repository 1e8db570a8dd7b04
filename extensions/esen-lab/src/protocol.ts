/**
 * What page and kernel say to each other: see PROTOCOL.md. Numbers are SI, shares are integers.
 *
 * What a message must be stands once, in esen_lab/ui/panel/messages.json; tools/extension.py copies it here and writes
 * its types into `sections.ts`.
 */

import schema from "./messages.json";
import { Level, Sections } from "./sections";

export { Level, Sections } from "./sections";

export const PROTOCOL = schema.protocol;
export const STATE_TARGET = schema.targets.state;
export const COMMANDS_TARGET = schema.targets.commands;
export const RATE_HZ = schema.to_kernel.rate.properties.rate_hz;
export const LOAD_LINE = "%load_ext esen_lab";

export type DeviceSection = NonNullable<Sections["device"]>;
export type EnsembleSection = NonNullable<Sections["ensemble"]>;
export type NodesSection = NonNullable<Sections["nodes"]>;
export type NodeRow = NodesSection["nodes"][number];
export type JobRow = NonNullable<Sections["jobs"]>[number];
export type PlanSection = NonNullable<Sections["plan"]>;
/** Whether answers under the plan are those of the whole device. */
export type AnswersRow = NonNullable<PlanSection["answers"]>;
export type ComparisonSection = NonNullable<Sections["comparison"]>;

/** A message of the kernel. Kinds that are not known here are ignored. */
export interface Message {
  kind: string;
  seq: number;
  protocol?: number;
  version?: string;
  kernel?: string;
  /** Of a hello: commands are read on the control channel only while a cell is busy. */
  control?: boolean;
  sections?: Partial<Sections>;
  text?: string;
  level?: Level;
  what?: string;
  [key: string]: unknown;
}

export const NOTHING: Sections = {
  device: null,
  ensemble: null,
  nodes: null,
  jobs: null,
  plan: null,
  comparison: null,
  actions: null,
  next_step: null,
  busy: null,
};

/** The data of a comm message as a `Message`, or null when it is none. */
export function asMessage(data: unknown): Message | null {
  if (typeof data !== "object" || data === null) return null;
  const { kind, seq } = data as { kind?: unknown; seq?: unknown };
  const numbered = typeof seq === "number" && Number.isSafeInteger(seq) && seq >= 0;
  return typeof kind === "string" && numbered ? (data as Message) : null;
}
