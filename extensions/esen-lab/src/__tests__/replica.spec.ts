import { Message, NOTHING, PROTOCOL } from "../protocol";
import { Replica } from "../replica";

function replica(...messages: Message[]): Replica {
  const made = new Replica();
  made.begin();
  for (const message of messages) made.take(message);
  return made;
}

const busy = (cell: boolean) => ({ sections: { busy: { cell } } });
const hello: Message = { kind: "hello", seq: 0, protocol: PROTOCOL };
const state: Message = { kind: "state", seq: 1, ...busy(false) };

test.each<[Partial<Message> & { kind: string }, string]>([
  [{ kind: "state", ...busy(true) }, "whole"],
  [{ kind: "patch", ...busy(true) }, "changed"],
  [{ kind: "said", text: "no such job", level: "warning" }, "changed"],
  [{ kind: "monitor", what: "none", text: "" }, "monitor"],
  [{ kind: "mismatch", protocol: 99 }, "mismatch"],
  [{ kind: "hello", protocol: 99 }, "mismatch"],
  [{ kind: "bye", text: "unloaded" }, "bye"],
  [{ kind: "hello", protocol: PROTOCOL }, "nothing"],
  [{ kind: "a kind of the future" }, "nothing"],
  [{ kind: "patch" }, "changed"], // what is wrong with it is said
])("%j means %s", (message, meaning) => {
  expect(replica(hello, state).take({ ...message, seq: 2 })).toEqual({ meaning, gap: false });
});

test("a message that is missing is a gap, but not before a whole state", () => {
  expect(replica(hello, state).take({ kind: "patch", seq: 3, ...busy(true) })).toEqual({
    meaning: "nothing",
    gap: true,
  });
  expect(replica(hello).take({ ...state, seq: 7 })).toEqual({ meaning: "whole", gap: false });
});

test("what was asked for anew is not asked for again, and patches wait for it", () => {
  const asked = replica(hello, state);
  asked.resyncing = true;
  expect(asked.take({ kind: "patch", seq: 9, ...busy(true) })).toEqual({
    meaning: "nothing",
    gap: false,
  });
  expect(asked.sections.busy).toEqual({ cell: false });
  asked.take({ kind: "state", seq: 10, ...busy(true) });
  expect([asked.resyncing, asked.sections.busy]).toEqual([false, { cell: true }]);
});

test("what is forgotten is every section; what was said to people stays", () => {
  const left = replica(hello, state, { kind: "bye", seq: 2, text: "unloaded" });
  left.forget();
  expect([left.sections, left.text]).toEqual([NOTHING, "unloaded"]);
});

const NODES = { address: "one:6379", dashboard: "", nodes: [], text: "" };

test("a kernel that knows nothing of nodes has none, and one that leaves its cluster has none any more", () => {
  expect(replica(hello, state).sections.nodes).toBeNull();
  const left = replica(hello, state, { kind: "patch", seq: 2, sections: { nodes: NODES } });
  expect(left.sections.nodes).toEqual(NODES);
  left.take({ kind: "patch", seq: 3, sections: { nodes: null } });
  expect([left.sections.nodes, left.text]).toEqual([null, ""]);
});

test("a section of the future is ignored, and nothing is said of it", () => {
  const sections = { busy: { cell: true }, weather: { text: "rain" } } as object;
  const known = replica(hello, { kind: "state", seq: 1, sections });
  expect([known.sections, known.text]).toEqual([{ ...NOTHING, busy: { cell: true } }, ""]);
});

test("nodes that are none are absent, and what was wrong is said", () => {
  const sections = { nodes: { ...NODES, nodes: [{ name: "left" }] } } as object;
  const wrong = replica(hello, { kind: "state", seq: 1, sections });
  expect(wrong.sections.nodes).toBeNull();
  expect(wrong.text).toContain("nodes.nodes[0].units: missing");
});
