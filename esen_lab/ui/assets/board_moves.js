// What moves do to a draft, and what a draft promises: `planner/editor/moves.py` and `draft.py` once more, so that the
// page predicts while the pointer moves, whatever the kernel is doing. A test compares the two, number by number.
//
//   draft    {units, oversubscribe, lanes: [{units, members, pinned}]}; moves return another one
//   tables   name -> seconds at 1..units units, never rising

class Refused extends Error {}

const isMeasure = (unit) => unit.endsWith("%") || unit === "percent"; // it has no plural
const plural = (unit) => (isMeasure(unit) ? unit : unit.replace(/^(.*?)( of |$)/, "$1s$2"));
const asUnits = (count, unit) => `${count} ${count === 1 ? unit : plural(unit)}`;

// The sum without rounding errors, rounded once, as Python's math.fsum: ties between lanes are decided by the last bit.
function exactSum(numbers) {
  const parts = [];
  for (let x of numbers) {
    let kept = 0;
    for (let y of parts) {
      if (Math.abs(x) < Math.abs(y)) [x, y] = [y, x];
      const high = x + y;
      const low = y - (high - x);
      if (low) parts[kept++] = low;
      x = high;
    }
    parts.splice(kept, Infinity, x);
  }
  let high = parts.pop() ?? 0;
  let low = 0;
  while (parts.length) {
    const x = high;
    const y = parts.pop();
    high = x + y;
    low = y - (high - x);
    if (low) break;
  }
  if (parts.length && ((low < 0 && parts.at(-1) < 0) || (low > 0 && parts.at(-1) > 0))) {
    const y = low * 2; // halfway: the rest says to which side
    const x = high + y;
    if (y === x - high) high = x;
  }
  return high;
}

const laneSeconds = (tables, members, units) => exactSum(members.map((name) => tables[name][units - 1]));
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
const totalUnits = (draft) => sum(draft.lanes.map((lane) => lane.units));
const laneOf = (draft, name) => draft.lanes.findIndex((lane) => lane.members.includes(name));
const sameLanes = (some, others) =>
  some.length === others.length &&
  some.every(
    (lane, at) =>
      lane.units === others[at].units &&
      lane.members.length === others[at].members.length &&
      lane.members.every((name, k) => name === others[at].members[k]),
  );

// Is one list of numbers before another one, first number first?
function before(some, others) {
  const at = some.findIndex((x, k) => x !== others[k]);
  return at >= 0 && some[at] < others[at];
}

// The largest share that a lane can have: others keep theirs where pinned, else one unit.
function mostUnits(draft, index) {
  if (draft.oversubscribe) return draft.units;
  const others = draft.lanes.filter((_, at) => at !== index).map((lane) => (lane.pinned ? lane.units : 1));
  return Math.max(1, draft.units - sum(others));
}

function fitIn(draft, tables, wasTotal, fixed) {
  if (draft.oversubscribe) return draft;
  const shares = draft.lanes.map((lane) => lane.units);
  const movable = shares.map((_, at) => at).filter((at) => !draft.lanes[at].pinned && !fixed.has(at));
  const seconds = (at, units) => laneSeconds(tables, draft.lanes[at].members, units);
  while (sum(shares) > draft.units) {
    const givers = movable.filter((at) => shares[at] > 1);
    if (!givers.length) throw new Refused(noRoom(draft, fixed));
    const cost = (at) => [Number(seconds(at, shares[at] - 1) > seconds(at, shares[at])), seconds(at, shares[at] - 1), at];
    shares[givers.reduce((best, at) => (before(cost(at), cost(best)) ? at : best))] -= 1;
  }
  let free = Math.min(wasTotal, draft.units) - sum(shares);
  const waiting = new Set(movable);
  while (free > 0 && waiting.size) {
    const slow = (at) => [-seconds(at, shares[at]), at];
    const slowest = [...waiting].reduce((best, at) => (before(slow(at), slow(best)) ? at : best));
    const most = Math.min(shares[slowest] + free, draft.units);
    const now = seconds(slowest, shares[slowest]);
    let wider = shares[slowest] + 1;
    while (wider <= most && !(seconds(slowest, wider) < now)) wider += 1;
    if (wider > most) {
      waiting.delete(slowest);
      continue;
    }
    free -= wider - shares[slowest];
    shares[slowest] = wider;
  }
  return { ...draft, lanes: draft.lanes.map((lane, at) => ({ ...lane, units: shares[at] })) };
}

function noRoom(draft, fixed) {
  const held = sum(draft.lanes.map((lane) => (lane.pinned ? lane.units : 0)));
  const others = draft.lanes.filter((lane, at) => !lane.pinned && !fixed.has(at)).length;
  const asked = sum(draft.lanes.map((lane, at) => (fixed.has(at) && !lane.pinned ? lane.units : 0)));
  const parts = [];
  if (asked) parts.push(`${asked} asked for`);
  if (held) parts.push(`${held} pinned`);
  if (others) parts.push(`at least ${others} for the other lanes`);
  return `No room: the shares sum to at most ${draft.units}, and every lane keeps at least 1 (${parts.join(", ")}).`;
}

// wanted: lane's index -> units
function setShares(draft, tables, wanted) {
  const lanes = draft.lanes.map((lane, at) => ({ ...lane, units: wanted.get(at) ?? lane.units }));
  return fitIn({ ...draft, lanes }, tables, totalUnits(draft), new Set(wanted.keys()));
}

// to: a lane's index, or null for a lane of its own
function moveMember(draft, tables, name, to) {
  const source = laneOf(draft, name);
  const here = draft.lanes[source];
  if (to === null) return here.members.length > 1 ? splitLane(draft, tables, [name]) : draft;
  if (to === source) return draft;
  const there = draft.lanes[to];
  const rest = here.members.filter((member) => member !== name);
  const joined = { ...there, members: [...there.members, name] };
  if (!rest.length && !there.pinned) joined.units = Math.min(there.units + here.units, draft.units);
  const lanes = draft.lanes.map((lane, at) => (at === to ? joined : at === source ? { ...here, members: rest } : lane));
  return fitIn({ ...draft, lanes: lanes.filter((lane) => lane.members.length) }, tables, totalUnits(draft), new Set());
}

function splitLane(draft, tables, names) {
  const index = laneOf(draft, names[0]);
  const lane = draft.lanes[index];
  const leaving = lane.members.filter((name) => names.includes(name));
  const staying = lane.members.filter((name) => !names.includes(name));
  let mine = lane.units;
  let theirs = lane.units;
  if (!draft.oversubscribe) {
    const share = Math.max(lane.units, 2);
    let least = [Infinity];
    for (let k = 1; k < share; k += 1) {
      const both = [laneSeconds(tables, staying, k), laneSeconds(tables, leaving, share - k)];
      const found = [Math.max(...both), both[0] + both[1]];
      if (before(found, least)) [least, mine] = [found, k];
    }
    theirs = share - mine;
  }
  const halves = [
    { units: mine, members: staying, pinned: false },
    { units: theirs, members: leaving, pinned: false },
  ];
  const lanes = [...draft.lanes.slice(0, index), ...halves, ...draft.lanes.slice(index + 1)];
  return fitIn({ ...draft, lanes }, tables, totalUnits(draft), new Set([index, index + 1]));
}

const setPinned = (draft, index, pinned) => ({
  ...draft,
  lanes: draft.lanes.map((lane, at) => (at === index ? { ...lane, pinned } : lane)),
});

// No schedule on so many units is faster: `planner/bounds.py`.
function scheduleBound(tables, capacity) {
  const rows = Object.values(tables).map((row) => {
    let least = Infinity;
    return row.map((seconds) => (least = Math.min(least, seconds)));
  });
  const critical = Math.max(...rows.map((row) => row.at(-1)));
  const area = (row, deadline) => Math.min(...row.map((t, at) => (t <= deadline ? t * (at + 1) : Infinity)));
  const later = [...new Set(rows.flat().filter((t) => t > critical))].sort((a, b) => a - b);
  const times = [critical, ...later];
  for (const [at, time] of times.entries()) {
    const possible = Math.max(time, sum(rows.map((row) => area(row, time))) / capacity);
    if (possible < (times[at + 1] ?? Infinity)) return possible;
  }
  return critical;
}

const bounds = new WeakMap(); // tables -> units in all -> seconds

// proven: what a search proved for plans of the device's own units, in seconds
function forecast(draft, tables, proven) {
  const lane_s = draft.lanes.map((lane) => laneSeconds(tables, lane.members, lane.units));
  const jct_s = Math.max(...lane_s);
  const total = Math.max(totalUnits(draft), draft.units);
  if (!bounds.has(tables)) bounds.set(tables, new Map());
  const known = bounds.get(tables);
  if (!known.has(total)) known.set(total, scheduleBound(tables, total));
  const bound_s = Math.min(jct_s, Math.max(known.get(total), total === draft.units ? proven : 0));
  return { lane_s, jct_s, bound_s, gap: Math.max(0, jct_s / bound_s - 1), limiting: lane_s.indexOf(jct_s) };
}

// Which lanes have a share at which answers were wrong. avoid: name -> such shares
function wrongAt(draft, avoid) {
  const found = [];
  for (const lane of draft.lanes)
    for (const name of lane.members) if (avoid[name]?.includes(lane.units)) found.push([name, lane.units]);
  return found;
}
