import { h, morph } from "../dom";
import {
  drawActions,
  drawComparison,
  drawDevice,
  drawEnsemble,
  drawJobs,
  drawNodes,
  drawPlan,
  drawSections,
} from "../draw";
import { bytes, count, percent, seconds, shares } from "../format";
import { AnswersRow, NodeRow, NodesSection, NOTHING, PlanSection, Sections } from "../protocol";
import { emptyState, Seen, statusText } from "../states";

const PLAN: PlanSection = {
  searcher: "exact",
  jct_s: 0.02,
  measured_s: null,
  bound_s: 0.019,
  gap: 0.05,
  proven: false,
  warm: false,
  total_units: 4,
  units: 4,
  text: "",
  lanes: [
    {
      units: 1,
      percent: 25,
      jct_s: 0.01,
      limiting: false,
      submodels: [{ name: "<b>a</b>", predicted_s: 0.01 }],
    },
    {
      units: 3,
      percent: 75,
      jct_s: 0.02,
      limiting: true,
      submodels: [{ name: "b", predicted_s: 0.02 }],
    },
  ],
};

test("a lane of which nothing is predicted says no time", () => {
  const [first, second] = PLAN.lanes;
  const unknown = { ...first, jct_s: null, submodels: [{ name: "a", predicted_s: null }] };
  const lanes = drawPlan({ ...PLAN, lanes: [unknown, second] }).querySelector(".esen-lanes")!;
  expect(lanes.getAttribute("aria-label")).toBe("lane 1: 25 %; lane 2: 75 %, 20.0 ms");
  expect(lanes.querySelector(".esen-lane")!.getAttribute("title")).toBe("lane 1: 25 %");
  expect(lanes.querySelector(".esen-lane-member")!.getAttribute("title")).toBe("a");
});

test("numbers read as people write them", () => {
  expect([seconds(0.0123), seconds(12.34), seconds(1.5e-5), seconds(250), seconds(null)]).toEqual([
    "12.3 ms",
    "12.3 s",
    "15.0 µs",
    "250 s",
    "–",
  ]);
  expect([bytes(12), bytes(2600), bytes(24e9), bytes(null)]).toEqual([
    "12 B",
    "2.60 kB",
    "24.0 GB",
    "–",
  ]);
  expect([count(650), count(38400), count(1.2e6)]).toEqual(["650", "38.4 k", "1.20 M"]);
  expect([percent(0.05), percent(0.5), percent(null)]).toEqual(["5.0 %", "50 %", "–"]);
  expect([shares(1, "core"), shares(3, "core"), shares(30, "percent")]).toEqual([
    "1 core",
    "3 cores",
    "30 %",
  ]);
  expect(shares(2, "group of 8 SMs")).toBe("2 groups of 8 SMs");
});

test("a number that is rounded up to the next power has no exponent", () => {
  expect([seconds(0.9999), seconds(999.6e-6), seconds(99.99), seconds(0)]).toEqual([
    "1000 ms",
    "1000 µs",
    "100 s",
    "0.00 µs",
  ]);
  expect([bytes(999_960), count(999_960)]).toEqual(["1000 kB", "1000 k"]);
});

test("names of a notebook are text, never HTML", () => {
  const drawn = drawPlan(PLAN);
  expect(drawn.querySelector("b b")).toBeNull();
  expect(drawn.textContent).toContain("<b>a</b>");
});

test("the slowest lane is marked, and lanes are as wide as their shares", () => {
  const lanes = [...drawPlan(PLAN).querySelectorAll<HTMLElement>(".esen-lane")];
  expect(lanes.map((lane) => lane.classList.contains("esen-limiting"))).toEqual([false, true]);
  expect(lanes.map((lane) => lane.style.flexGrow)).toEqual(["1", "3"]);
});

test("a sub-model that is not executed eagerly says how", () => {
  const [lane] = PLAN.lanes;
  const ways = ["eager", "openvino", undefined].map((backend) => ({
    ...lane.submodels[0],
    backend,
  }));
  const drawn = drawPlan({ ...PLAN, lanes: [{ ...lane, submodels: ways }] });
  const members = [...drawn.querySelectorAll<HTMLElement>(".esen-lane-member")];
  expect(members.map((member) => member.querySelector(".esen-way")?.textContent)).toEqual([
    undefined,
    "openvino",
    undefined,
  ]);
  expect(members[1].title).toContain("executed by openvino");
});

test("wrong answers are an alert, the same ones a line, and unchecked ones nothing", () => {
  const answered = (state: AnswersRow["state"], text: string) =>
    drawPlan({ ...PLAN, answers: { state, text } }).querySelector(".esen-answers");
  expect(answered("wrong", "WRONG ANSWERS: a")?.getAttribute("role")).toBe("alert");
  expect(answered("same", "All answers equal.")?.getAttribute("role")).toBeNull();
  expect(answered("same", "All answers equal.")?.textContent).toBe("All answers equal.");
  expect(answered("unchecked", "")).toBeNull();
  expect(drawPlan(PLAN).querySelector(".esen-answers")).toBeNull();
});

test("a measured JCT comes first, with the prediction beside it", () => {
  const text = drawPlan({ ...PLAN, measured_s: 0.03 }).textContent ?? "";
  expect(text.indexOf("30.0 ms")).toBeLessThan(text.indexOf("20.0 ms"));
  expect(text).toContain("measured JCT");
});

test("a reading that is absent is not drawn as zero", () => {
  const device = {
    kind: "cpu",
    name: "CPU",
    units: 2,
    unit: "core",
    simulated: true,
    notes: ["Simulated."],
    free_bytes: null,
    in_force: [],
    utilization: null,
    utilization_label: "",
  };
  const drawn = drawDevice(device);
  expect(drawn.querySelector(".esen-meter")).toBeNull();
  expect(drawn.textContent).toContain("simulated");
  expect(
    drawDevice({ ...device, utilization: 0.5, utilization_label: "CPU" }).textContent,
  ).toContain("CPU 50 %");
});

const NODE: NodeRow = {
  name: "left",
  units: 8,
  gpus: 0,
  state: "ready",
  submodels: [],
  busy: null,
  notes: [],
};

const NODES: NodesSection = {
  address: "one:6379",
  dashboard: "http://one:8265",
  nodes: [NODE],
  text: "",
};

test("a node says in words what it is doing, what it has and who runs there", () => {
  const busy: NodeRow = {
    ...NODE,
    gpus: 2,
    busy: 0.42,
    submodels: [
      { name: "<b>wide</b>", colour: "#56B4E9" },
      { name: "deep", colour: "red;width:9em" },
    ],
    notes: ["<i>Two nodes</i> share these cores."],
  };
  const gone: NodeRow = { ...NODE, name: "right", units: 1, state: "gone" };
  const drawn = drawNodes({ ...NODES, nodes: [busy, gone], text: "Node right is gone: ..." });
  const [left, right] = [...drawn.querySelectorAll<HTMLElement>(".esen-node")];
  expect(left.textContent).toBe(
    "leftready · 8 cores · 2 GPUscores 42 %<b>wide</b>deep<i>Two nodes</i> share these cores.",
  );
  expect(left.querySelector("b b, i")).toBeNull();
  expect(left.querySelector("[role=img]")?.getAttribute("aria-label")).toBe("cores of left 42 %");
  expect(left.querySelectorAll(".esen-swatch").length).toBe(1);
  expect(right.textContent).toBe("rightgone · 1 core");
  expect(right.querySelector(".esen-meter")).toBeNull();
  expect(drawn.querySelector("[role=status]")?.textContent).toBe("Node right is gone: ...");
});

test("a cluster without nodes or words has neither", () => {
  const drawn = drawNodes({ ...NODES, nodes: [] });
  expect(drawn.querySelector(".esen-node, [role=status]")).toBeNull();
  expect(drawn.textContent).toContain("Ray at one:6379");
});

test("Ray's dashboard opens in a tab of its own, which knows nothing of this page", () => {
  const link = drawNodes(NODES).querySelector("a");
  expect(link?.getAttribute("href")).toBe("http://one:8265/");
  expect([link?.target, link?.rel]).toEqual(["_blank", "noopener noreferrer"]);
  expect(link?.textContent).toBe("Ray's dashboard");
});

test.each([
  "",
  "one:8265",
  "//one:8265",
  "javascript:alert(1)",
  " JavaScript:alert(1)",
  "data:text/html,x",
  "file:///x",
])("%j is no address of a dashboard", (dashboard) => {
  expect(drawNodes({ ...NODES, dashboard }).querySelector("a")).toBeNull();
});

test("nodes come right below the device", () => {
  const device = {
    kind: "cpu",
    name: "CPU",
    units: 2,
    unit: "core",
    simulated: false,
    notes: [],
    free_bytes: null,
    in_force: [],
    utilization: null,
    utilization_label: "",
  };
  const ensemble = { combine: "mean", submodels: [] };
  const drawn = drawSections({ ...NOTHING, device, nodes: NODES, plan: PLAN, ensemble }, false);
  expect(drawn.map((element) => element.dataset.section)).toEqual([
    "actions",
    "device",
    "nodes",
    "plan",
  ]);
});

test("a running job can be cancelled, an ended one says how it ended", () => {
  const job = {
    id: "profile",
    kind: "profile",
    done: 2,
    total: 8,
    left_s: 3,
    text: "2 of 8 points",
  };
  const running = drawJobs([{ ...job, state: "running" }]);
  expect(running?.querySelector<HTMLElement>("[data-stop]")?.dataset.stop).toBe("profile");
  expect(running?.querySelector("progress")?.value).toBe(2);
  const ended = drawJobs([{ ...job, state: "cancelled" }]);
  expect(ended?.querySelector("button")).toBeNull();
  expect(ended?.textContent).toContain("cancelled");
  expect(drawJobs([])).toBeNull();
});

test("every button can show the line that it stands for", () => {
  const action = {
    id: "profile",
    label: "Profile",
    line: "%esen profile",
    enabled: false,
    why: "Register first.",
  };
  const sections: Sections = {
    ...NOTHING,
    actions: [action],
    next_step: { text: "Profile.", action: "profile" },
  };
  const hidden = drawActions(sections, false);
  const button = hidden.querySelector<HTMLButtonElement>("[data-action=profile]");
  expect(button?.disabled).toBe(true);
  expect(button?.title).toBe("Register first.\n%esen profile");
  expect(hidden.querySelector("code")).toBeNull();
  expect(drawActions(sections, true).querySelector("code")?.textContent).toBe("%esen profile");
});

test("tables have a row for each sub-model and strategy", () => {
  const row = {
    name: "a",
    parameters: 1,
    bytes: 4,
    recipe: "live",
    example: "x",
    points: 1,
    points_wanted: 2,
  };
  const ensemble = drawEnsemble({ combine: "mean", submodels: [{ ...row, state: "running" }] });
  expect(ensemble.textContent).toContain("1 of 2");
  const failed = {
    strategy: "vmap",
    lanes: "-",
    median_s: null,
    spread_s: null,
    ratio: null,
    outputs: "no",
    best: false,
  };
  expect(
    drawComparison({ at: "", rows: [failed], text: "No." }).querySelectorAll("tbody tr").length,
  ).toBe(1);
});

test("what is not there is not drawn", () => {
  expect(drawSections(NOTHING, false).map((element) => element.dataset.section)).toEqual([
    "actions",
  ]);
});

test("changing figures leaves the elements that people press", () => {
  const box = document.createElement("div");
  const draw = (text: string) => [
    h("section", {}, h("span", {}, text), h("button.b", { title: text }, "Cancel")),
  ];
  morph(box, draw("1 of 8"));
  const button = box.querySelector("button");
  morph(box, draw("2 of 8"));
  expect(box.querySelector("button")).toBe(button);
  expect(button?.title).toBe("2 of 8");
  expect(box.textContent).toBe("2 of 8Cancel");
  morph(box, [h("p", {}, "none")]);
  expect(box.innerHTML).toBe("<p>none</p>");
  morph(box, []);
  expect(box.innerHTML).toBe("");
});

const SEEN: Seen = {
  notebook: true,
  kernel: true,
  phase: "live",
  restarted: false,
  text: "",
  submodels: 2,
  example: "%esen register wide_2 --example x",
};

test.each<[string, Partial<Seen>, RegExp, string | undefined]>([
  ["no notebook", { notebook: false }, /No notebook/, "esen-lab:open-quickstart"],
  ["no kernel", { kernel: false, phase: null }, /no kernel/, "notebook:change-kernel"],
  ["not loaded", { phase: "absent" }, /not loaded/, "%load_ext esen_lab"],
  ["restarted", { phase: "absent", restarted: true }, /restarted/, "%load_ext esen_lab"],
  ["unloaded", { phase: "absent", text: "It was unloaded." }, /unloaded/, "%load_ext esen_lab"],
  ["a cell runs", { phase: "waiting" }, /cell is running/, undefined],
  ["another language", { phase: "foreign" }, /not Python/, undefined],
  ["lost", { phase: "lost" }, /lost/, undefined],
  ["dead", { phase: "dead" }, /ended/, "notebook:restart-kernel"],
  ["mismatch", { phase: "mismatch", text: "Install the same version." }, /same version/, undefined],
  ["asking", { phase: "looking" }, /Asking/, undefined],
])("an empty state names its cause and its cure: %s", (_, seen, cause, cure) => {
  const found = emptyState({ ...SEEN, ...seen });
  expect(found?.cause).toMatch(cause);
  expect(found?.cure?.line ?? found?.cure?.command).toBe(cure);
});

test("without sub-models a cell is offered that registers two", () => {
  expect(emptyState({ ...SEEN, submodels: 0 })?.cure?.line).toBe(SEEN.example);
  expect(emptyState({ ...SEEN, submodels: 0, example: "" })?.cure).toBeUndefined();
  expect(emptyState(SEEN)).toBeNull();
});

test("the status bar says utilization and the running job", () => {
  const job = {
    id: "profile",
    kind: "profile",
    state: "running" as const,
    done: 3,
    total: 8,
    left_s: null,
    text: "",
  };
  expect(statusText(NOTHING)).toBe("esen");
  expect(statusText({ ...NOTHING, jobs: [job] })).toBe("esen: profile 3/8");
  expect(statusText({ ...NOTHING, jobs: [{ ...job, kind: "search", total: null }] })).toBe(
    "esen: search …",
  );
});
