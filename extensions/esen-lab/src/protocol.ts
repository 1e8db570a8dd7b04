/** What page and kernel say to each other: see PROTOCOL.md. Numbers are SI, shares are integers. */

export const PROTOCOL = 1;
export const STATE_TARGET = "esen_lab.panel";
export const COMMANDS_TARGET = "esen_lab.panel.commands";
export const LOAD_LINE = "%load_ext esen_lab";

export interface InForce {
  lane: number;
  units: number;
  text: string;
}

export interface DeviceSection {
  kind: string;
  name: string;
  units: number;
  unit: string;
  simulated: boolean;
  notes: string[];
  free_bytes: number | null;
  in_force: InForce[];
  utilization: number | null;
  utilization_label: string;
}

export interface SubModelRow {
  name: string;
  parameters: number;
  bytes: number;
  recipe: string;
  example: string;
  points: number;
  points_wanted: number | null;
  state: "none" | "running" | "done";
}

export interface EnsembleSection {
  combine: string;
  submodels: SubModelRow[];
}

export interface JobRow {
  id: string;
  kind: string;
  state: "running" | "done" | "failed" | "cancelled";
  done: number;
  total: number | null;
  left_s: number | null;
  text: string;
}

export interface LaneRow {
  units: number;
  percent: number;
  jct_s: number;
  limiting: boolean;
  submodels: { name: string; predicted_s: number | null; mechanism?: string }[];
}

/** Whether answers under the plan are those of the whole device. */
export interface AnswersRow {
  state: "unchecked" | "same" | "wrong" | "unsteady";
  text: string;
}

export interface PlanSection {
  searcher: string;
  jct_s: number | null;
  measured_s: number | null;
  bound_s: number | null;
  gap: number | null;
  proven: boolean;
  warm: boolean;
  total_units: number;
  units: number;
  lanes: LaneRow[];
  answers?: AnswersRow;
  text: string;
}

export interface ComparisonRow {
  strategy: string;
  lanes: string;
  median_s: number | null;
  spread_s: number | null;
  ratio: number | null;
  outputs: string;
  best: boolean;
}

export interface ComparisonSection {
  at: string;
  rows: ComparisonRow[];
  text: string;
}

export interface ActionRow {
  id: string;
  label: string;
  line: string;
  enabled: boolean;
  why: string;
}

export interface Sections {
  device: DeviceSection | null;
  ensemble: EnsembleSection | null;
  jobs: JobRow[] | null;
  plan: PlanSection | null;
  comparison: ComparisonSection | null;
  actions: ActionRow[] | null;
  next_step: { text: string; action: string | null } | null;
  busy: { cell: boolean } | null;
}

export type Level = "error" | "warning" | "info";

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
  return typeof kind === "string" && typeof seq === "number" ? (data as Message) : null;
}
