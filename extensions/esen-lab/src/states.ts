/** What the panel says when there is nothing to show: its cause, and its cure. Also what the status bar says. Pure. */

import { Phase } from "./connection";
import { percent } from "./format";
import { LOAD_LINE, Sections } from "./protocol";

export interface Cure {
  label: string;
  /** A cell to insert, or a command of JupyterLab. */
  line?: string;
  command?: string;
}

export interface Empty {
  cause: string;
  cure?: Cure;
}

export interface Seen {
  notebook: boolean;
  kernel: boolean;
  phase: Phase | null;
  restarted: boolean;
  text: string;
  submodels: number | null;
  /** The cell that registers two sub-models, or "". */
  example: string;
}

/** What to say, or null where there is something to show. */
export function emptyState(seen: Seen): Empty | null {
  if (!seen.notebook) {
    return {
      cause: "No notebook is open.",
      cure: { label: "Open the quickstart", command: "esen-lab:open-quickstart" },
    };
  }
  if (!seen.kernel || seen.phase === null) {
    return {
      cause: "This notebook has no kernel.",
      cure: { label: "Select a kernel", command: "notebook:change-kernel" },
    };
  }
  const load: Cure = { label: "Load it", line: LOAD_LINE };
  switch (seen.phase) {
    case "looking":
      return { cause: "Asking the kernel …" };
    case "opening":
      return { cause: seen.text || "Asking the kernel …" };
    case "waiting":
      return { cause: "A cell is running. The panel attaches when it is done." };
    case "absent":
      if (seen.text) return { cause: seen.text, cure: load };
      return seen.restarted
        ? {
            cause:
              "The kernel was restarted: what was registered is gone, stored profiles are not.",
            cure: { label: "Load it again", line: LOAD_LINE },
          }
        : { cause: "esen_lab is not loaded in this notebook's kernel.", cure: load };
    case "foreign":
      return { cause: "This notebook's kernel is not Python; esen_lab needs a Python kernel." };
    case "mismatch":
      return { cause: seen.text };
    case "lost":
      return {
        cause: "The connection to the kernel is lost. The panel attaches again when it is back.",
      };
    case "dead":
      return {
        cause: "The kernel has ended.",
        cure: { label: "Restart it", command: "notebook:restart-kernel" },
      };
    case "live":
      return seen.submodels === 0
        ? {
            cause: "No sub-models yet.",
            cure: seen.example ? { label: "Insert an example", line: seen.example } : undefined,
          }
        : null;
  }
}

/** What the item of the status bar says. */
export function statusText(sections: Sections): string {
  const parts = [];
  const used = sections.device?.utilization;
  if (used !== null && used !== undefined) parts.push(percent(used));
  const job = (sections.jobs ?? []).find((row) => row.state === "running");
  if (job) parts.push(job.total ? `${job.kind} ${job.done}/${job.total}` : `${job.kind} …`);
  return parts.length ? `esen: ${parts.join(" · ")}` : "esen";
}
