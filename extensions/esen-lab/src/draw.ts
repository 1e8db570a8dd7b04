/**
 * Sections as elements. Pure. Buttons say by attributes what they are for (see `Panel`):
 * data-action="id of an action", data-stop="id of a job" (empty: all).
 */

import { Child, h } from "./dom";
import { bytes, count, percent, seconds, shares } from "./format";
import {
  AnswersRow,
  ComparisonSection,
  DeviceSection,
  EnsembleSection,
  JobRow,
  NodeRow,
  NodesSection,
  PlanSection,
  Sections,
} from "./protocol";

function section(name: string, title: string, ...children: Child[]): HTMLElement {
  const id = `esen-${name}-title`;
  return h(
    `section.esen-section`,
    { "aria-labelledby": id, "data-section": name },
    h("h3", { id }, title),
    ...children,
  );
}

export function drawDevice(device: DeviceSection): HTMLElement {
  return section(
    "device",
    "Device",
    h(
      "div.esen-line",
      {},
      h("b", {}, device.name),
      device.simulated && h("span.esen-tag", {}, "simulated"),
    ),
    h(
      "div.esen-line.esen-faint",
      {},
      [
        device.kind,
        shares(device.units, device.unit),
        device.free_bytes === null ? "" : `${bytes(device.free_bytes)} free`,
      ]
        .filter(Boolean)
        .join(" · "),
    ),
    drawMeter(device.utilization_label || "utilization", device.utilization),
    device.in_force.length > 0 &&
      h(
        "ul.esen-list",
        { "aria-label": "Limits in force" },
        ...device.in_force.map((row) => h("li", {}, `lane ${row.lane}: ${row.text}`)),
      ),
    ...device.notes.map((note) => h("div.esen-note", {}, note)),
  );
}

/** A part of one as a bar with its words; nothing where it was not read. */
function drawMeter(label: string, used: number | null, of = label): HTMLElement | null {
  if (used === null) return null;
  return h(
    "div.esen-meter",
    { role: "img", "aria-label": `${of} ${percent(used)}`, title: of },
    h("div.esen-meter-fill", { style: `width:${Math.min(100, used * 100).toFixed(0)}%` }),
    h("span.esen-meter-text", {}, `${label} ${percent(used)}`),
  );
}

export function drawNodes(nodes: NodesSection): HTMLElement {
  const dashboard = webAddress(nodes.dashboard);
  return section(
    "nodes",
    "Nodes",
    h(
      "div.esen-line",
      {},
      h("span.esen-faint", {}, `Ray at ${nodes.address}`),
      dashboard &&
        h(
          "a.esen-link",
          {
            href: dashboard,
            target: "_blank",
            rel: "noopener noreferrer",
            title: `${dashboard}, in a new tab`,
          },
          "Ray's dashboard",
        ),
    ),
    nodes.text ? h("div.esen-note", { role: "status" }, nodes.text) : null,
    h("ul.esen-nodes", { "aria-label": "Nodes of the cluster" }, ...nodes.nodes.map(drawNode)),
  );
}

function drawNode(node: NodeRow): HTMLElement {
  return h(
    "li.esen-node",
    { "data-node": node.name },
    h(
      "div.esen-line",
      {},
      h("b", {}, node.name),
      h(
        "span",
        {},
        h(`span.esen-state.esen-state-${node.state}`, {}, node.state),
        ` · ${shares(node.units, "core")}`,
        node.gpus > 0 && ` · ${shares(node.gpus, "GPU")}`,
      ),
    ),
    drawMeter("cores", node.busy, `cores of ${node.name}`),
    node.submodels.length > 0 &&
      h(
        "div.esen-line.esen-node-members",
        {},
        ...node.submodels.map((member) => h("span", {}, swatch(member.colour), member.name)),
      ),
    ...node.notes.map((note) => h("div.esen-note", {}, note)),
  );
}

/** The address of a web page, or "": what a kernel sends may be anything, and "javascript:" would run here. */
function webAddress(given: string): string {
  try {
    const { protocol, href } = new URL(given);
    return protocol === "http:" || protocol === "https:" ? href : "";
  } catch {
    return "";
  }
}

export function drawEnsemble(ensemble: EnsembleSection): HTMLElement {
  return section(
    "ensemble",
    `Ensemble of ${ensemble.submodels.length}`,
    h("div.esen-line.esen-faint", {}, `combined by ${ensemble.combine}`),
    h(
      "table.esen-table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "name"),
          h("th.esen-number", { scope: "col" }, "parameters"),
          h("th.esen-number", { scope: "col" }, "memory"),
          h("th.esen-number", { scope: "col", title: "measured points" }, "points"),
        ),
      ),
      h(
        "tbody",
        {},
        ...ensemble.submodels.map((row) =>
          h(
            "tr",
            { title: `${row.recipe}; example ${row.example}` },
            h("td", {}, swatch(row.colour), row.name),
            h("td.esen-number", {}, count(row.parameters)),
            h("td.esen-number", {}, bytes(row.bytes)),
            h(`td.esen-number.esen-profile-${row.state}`, {}, pointsText(row)),
          ),
        ),
      ),
    ),
  );
}

/** A square in a sub-model's colour: the same as in pictures. */
function swatch(colour: string | undefined): HTMLElement | false {
  return isColour(colour) && h("span.esen-swatch", { style: `background:${colour}` });
}

function isColour(colour: string | undefined): colour is string {
  return colour !== undefined && /^#[0-9a-f]{6}$/i.test(colour);
}

function pointsText(row: { points: number; points_wanted: number | null; state: string }): string {
  if (row.state === "none") return "none";
  return row.points_wanted === null ? String(row.points) : `${row.points} of ${row.points_wanted}`;
}

export function drawJobs(jobs: JobRow[]): HTMLElement | null {
  if (jobs.length === 0) return null;
  return section(
    "jobs",
    "Jobs",
    ...jobs.map((job) => {
      const running = job.state === "running";
      const known = job.total !== null && job.total > 0;
      const bar = running
        ? h("progress", {
            "aria-label": job.kind,
            max: known ? String(job.total) : undefined,
            value: known ? String(job.done) : undefined,
          })
        : null;
      const left = running && job.left_s !== null ? `${seconds(job.left_s)} left` : "";
      return h(
        `div.esen-job.esen-job-${job.state}`,
        { "data-job": job.id },
        h(
          "div.esen-line",
          {},
          h("b", {}, job.kind),
          h("span.esen-faint", {}, running ? left : job.state),
          running &&
            h(
              "button.esen-button.esen-stop-job",
              {
                type: "button",
                title: `Cancel this ${job.kind}. Finished points are kept.`,
                "data-stop": job.id,
              },
              "Cancel",
            ),
        ),
        bar,
        h("div.esen-faint", {}, job.text),
      );
    }),
  );
}

/** Lanes as bars: as wide as their share, with what they take beside them. */
export function drawPlan(plan: PlanSection): HTMLElement {
  const slowest = Math.max(...plan.lanes.map((lane) => lane.jct_s ?? 0), 1e-12);
  const whole = Math.max(plan.units, plan.total_units);
  return section(
    "plan",
    "Plan",
    h(
      "div.esen-line",
      {},
      h("b", {}, seconds(plan.measured_s ?? plan.jct_s)),
      h("span.esen-faint", {}, plan.measured_s === null ? "predicted JCT" : "measured JCT"),
      plan.measured_s !== null &&
        plan.jct_s !== null &&
        h("span.esen-faint", {}, `(predicted ${seconds(plan.jct_s)})`),
    ),
    h(
      "div.esen-line.esen-faint",
      {},
      [
        plan.bound_s === null ? "" : `bound ${seconds(plan.bound_s)}`,
        plan.gap === null ? "" : `gap ${percent(plan.gap)}${plan.proven ? ", proven" : ""}`,
        plan.searcher,
        plan.warm ? "lanes are warm" : "",
      ]
        .filter(Boolean)
        .join(" · "),
    ),
    h(
      "div.esen-lanes",
      {
        role: "img",
        "aria-label": plan.lanes
          .map((lane, i) => `lane ${i + 1}: ${Math.round(lane.percent)} %${taking(lane.jct_s)}`)
          .join("; "),
      },
      ...plan.lanes.map((lane, index) =>
        h(
          `div.esen-lane${lane.limiting ? ".esen-limiting" : ""}`,
          {
            style: `flex-grow:${Math.max(lane.units, whole / 20)}`,
            title:
              `lane ${index + 1}: ${Math.round(lane.percent)} %${taking(lane.jct_s)}` +
              (lane.limiting ? ", the slowest" : ""),
          },
          h(
            "div.esen-lane-members",
            {},
            ...lane.submodels.map((member) =>
              h(
                "div.esen-lane-member",
                {
                  style:
                    `flex-grow:${Math.max((member.predicted_s ?? 0) / slowest, 0.02).toFixed(3)}` +
                    (isColour(member.colour) ? `;--esen-colour:${member.colour}` : ""),
                  title: [
                    `${member.name}${taking(member.predicted_s, ": ")}`,
                    executed(member.backend),
                  ]
                    .filter(Boolean)
                    .join(", "),
                },
                member.name,
                executed(member.backend) && h("span.esen-way", {}, member.backend ?? ""),
              ),
            ),
            h("div.esen-lane-idle", {
              style: `flex-grow:${Math.max(1 - (lane.jct_s ?? slowest) / slowest, 0).toFixed(3)}`,
            }),
          ),
          h("div.esen-lane-share", {}, `${Math.round(lane.percent)} %`),
        ),
      ),
    ),
    drawAnswers(plan.answers),
    plan.text ? h("div.esen-faint", {}, plan.text) : null,
  );
}

/** What something is predicted to take, after a comma or what else stands before it; "" where nobody knows. */
function taking(predicted_s: number | null, before = ", "): string {
  return predicted_s === null ? "" : `${before}${seconds(predicted_s)}`;
}

/** How a sub-model is executed, where that is not the usual way. */
function executed(backend: string | undefined): string {
  return backend === undefined || backend === "eager" ? "" : `executed by ${backend}`;
}

/** Nothing where nothing was checked; wrong answers are an alert. */
function drawAnswers(answers: AnswersRow | undefined): HTMLElement | null {
  if (!answers || answers.text === "") return null;
  return answers.state === "wrong"
    ? h("div.esen-answers.esen-said-error", { role: "alert" }, answers.text)
    : h("div.esen-answers.esen-faint", {}, answers.text);
}

export function drawComparison(comparison: ComparisonSection): HTMLElement {
  return section(
    "comparison",
    "Last comparison",
    h(
      "table.esen-table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "strategy"),
          h("th.esen-number", { scope: "col" }, "JCT"),
          h("th.esen-number", { scope: "col" }, "spread"),
          h("th.esen-number", { scope: "col" }, "ratio"),
        ),
      ),
      h(
        "tbody",
        {},
        ...comparison.rows.map((row) =>
          h(
            `tr${row.best ? ".esen-best" : ""}`,
            { title: `${row.lanes} · outputs ${row.outputs}` },
            h("td", {}, row.strategy),
            h("td.esen-number", {}, seconds(row.median_s)),
            h("td.esen-number", {}, seconds(row.spread_s)),
            h("td.esen-number", {}, row.ratio === null ? "–" : row.ratio.toFixed(2)),
          ),
        ),
      ),
    ),
    comparison.text ? h("div.esen-faint", {}, comparison.text) : null,
  );
}

export function drawActions(sections: Sections, showLines: boolean): HTMLElement {
  const next = sections.next_step;
  const running = (sections.jobs ?? []).some((job) => job.state === "running");
  return section(
    "actions",
    "Do",
    next ? h("div.esen-next", { role: "status" }, next.text) : null,
    h(
      "div.esen-buttons",
      {},
      ...(sections.actions ?? []).map((action) =>
        h(
          "div.esen-action",
          {},
          h(
            `button.esen-button${next?.action === action.id ? ".esen-suggested" : ""}`,
            {
              type: "button",
              "data-action": action.id,
              disabled: !action.enabled,
              title: action.enabled ? action.line : `${action.why}\n${action.line}`,
            },
            action.label,
          ),
          showLines && h("code", {}, action.line),
        ),
      ),
      h(
        "button.esen-button.esen-stop-all",
        {
          type: "button",
          disabled: !running,
          title: running
            ? "%esen cancel: stops what runs in the background"
            : "Nothing runs in the background.",
          "data-stop": "",
        },
        "Stop",
      ),
    ),
  );
}

/** All there is to see, in the order of reading. */
export function drawSections(sections: Sections, showLines: boolean): HTMLElement[] {
  const drawn = [
    sections.jobs ? drawJobs(sections.jobs) : null,
    drawActions(sections, showLines),
    sections.device ? drawDevice(sections.device) : null,
    sections.nodes ? drawNodes(sections.nodes) : null,
    sections.ensemble && sections.ensemble.submodels.length > 0
      ? drawEnsemble(sections.ensemble)
      : null,
    sections.plan ? drawPlan(sections.plan) : null,
    sections.comparison ? drawComparison(sections.comparison) : null,
  ];
  return drawn.filter((element): element is HTMLElement => element !== null);
}
