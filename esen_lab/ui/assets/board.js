// The board: lanes as rows (height: share, length: time), sub-models as blocks that are dragged between them.
//
// What is shown is the kernel's draft ("view"), or, after a drop that the kernel has not answered yet, the page's own
// ("pending"). Everything that can be done with a pointer can be done with keys. See board.py for what is sent.

const TALL = 240; // px of all lanes' shares together
const LEAST = 34; // px of one lane
const MOST_RAN = 3; // times the predicted JCT: a run that took longer is cut off, or nothing else could be seen
const FAR = 4; // px that a pointer moves before it drags
const LATE_S = 0.0003; // a lane that begins later than this, and than 5 % of the JCT, is marked: see run/report.py
const CHANGED = "The lanes have changed meanwhile: nothing was moved.";
const HELP = "Drag a sub-model to another lane, or into the dashed space for a lane of its own; drag a border to move a share; click a lane's head to pin its share. Keys: ↑ ↓ move what has the focus (a sub-model, a border), N gives a lane of its own, P pins, Z takes back.";

function h(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(made.style, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function forPeople(s) {
  const [scale, unit] = s >= 1 ? [1, "s"] : s >= 1e-3 ? [1e-3, "ms"] : [1e-6, "µs"];
  const value = s / scale;
  return `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)} ${unit}`;
}

const percent = (ratio) => (ratio >= 2 ? `${ratio.toFixed(ratio >= 10 ? 0 : 1)} times` : `${(100 * ratio).toFixed(1)} %`);

function changed(ratio) {
  if (Math.abs(ratio - 1) < 5e-4) return "as before";
  return ratio < 1 ? `${percent(1 - ratio)} faster` : `${percent(ratio - 1)} slower`;
}

function isDark(el) {
  const light = document.body.dataset.jpThemeLight;
  if (light) return light === "false";
  const ink = (getComputedStyle(el).color.match(/[\d.]+/g) ?? []).map(Number);
  return ink.length >= 3 && ink[0] + ink[1] + ink[2] > 382; // light text: the page is dark
}

class Board {
  constructor(model, el) {
    Object.assign(this, { model, el, page: crypto.getRandomValues(new Uint32Array(3)).join("-"), number: 0 });
    Object.assign(this, { pending: [], why: null, asked: new Map(), gesture: null, drag: null, shown: null });
    el.classList.add("esen-board");
    el.setAttribute("role", "group");
    el.setAttribute("aria-label", "Plan board");
    el.setAttribute("data-lm-suppress-shortcuts", "true"); // the notebook's own keys are not meant here
    this.figures = h("div", { class: "figures", role: "status" });
    this.notes = h("div", { class: "notes", role: "status" });
    this.lanes = h("div", { class: "lanes" });
    this.beside = h("div", { class: "beside" });
    this.main = h("div", { class: "main" }, this.lanes, this.beside);
    this.bar = h("div", { class: "bar" });
    this.tip = h("div", { class: "tip", hidden: true });
    const help = h("div", { class: "help", id: `esen-${this.page}` }, HELP);
    el.replaceChildren(this.figures, this.notes, this.main, this.bar, help, this.tip);
    this.buttons();
    this.onKey = (event) => this.key(event);
    el.addEventListener("keydown", this.onKey);
    this.learn = () => this.models();
    this.follow = () => this.take();
    model.on("change:models", this.learn);
    model.on("change:view", this.follow);
    this.theme = new MutationObserver(() => this.paint());
    this.theme.observe(document.body, { attributes: true });
    this.models();
  }

  close() {
    this.model.off("change:models", this.learn);
    this.model.off("change:view", this.follow);
    this.el.removeEventListener("keydown", this.onKey);
    this.theme.disconnect();
    clearTimeout(this.waiting);
  }

  paint() {
    this.el.classList.toggle("esen-dark", isDark(this.el));
  }

  // --- what is known ------------------------------------------------------------------------------------------------

  models() {
    const { units, unit, models } = this.model.get("models");
    Object.assign(this, { units, unit });
    this.known = Object.fromEntries((models ?? []).map((one) => [one.name, one]));
    this.tables = Object.fromEntries((models ?? []).map((one) => [one.name, one.seconds]));
    this.avoid = Object.fromEntries((models ?? []).map((one) => [one.name, one.avoid]));
    this.take();
  }

  take() {
    const view = this.model.get("view");
    if (!view?.lanes) return;
    const strange = view.lanes.some((lane) => lane.members.some((name) => !(name in this.tables)));
    if (strange) return; // its models are on their way
    this.view = view;
    const heard = view.heard[this.page] ?? 0;
    this.pending = this.pending.filter((one) => one.number > heard);
    const refused = view.refused;
    if (refused.page === this.page && this.asked.has(refused.number)) {
      this.why = { where: this.asked.get(refused.number), text: refused.text };
      this.asked.delete(refused.number);
    }
    if (!this.drag) this.render();
  }

  get draft() {
    if (this.pending.length) return this.pending.at(-1).draft;
    return { units: this.units, oversubscribe: this.view.oversubscribe, lanes: this.view.lanes };
  }

  forecast(draft) {
    return forecast(draft, this.tables, this.view.proven_s);
  }

  // --- what is asked ------------------------------------------------------------------------------------------------

  // where: beside what a refusal is shown; draft: what is shown until the kernel has heard
  ask(order, where = null, draft = null) {
    this.number += 1;
    this.why = null;
    this.asked.set(this.number, where);
    if (draft) this.pending.push({ number: this.number, draft });
    const number = this.number;
    void command(this.model, { ...order, page: this.page, number });
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => {
      if (this.pending.some((one) => one.number === number)) this.say("The kernel is busy: it hears of this when its cell is done.");
    }, 1500);
    this.render();
  }

  // Whether lanes still run what they ran when something was grabbed: places in the page are told by their number.
  stands(base) {
    const lanes = this.draft.lanes;
    const runs = (lane, other) => lane.members.length === other.members.length && lane.members.every((name, k) => name === other.members[k]);
    return lanes.length === base.lanes.length && lanes.every((lane, at) => runs(lane, base.lanes[at]));
  }

  // Try a move here first: a refusal is said at its place, and nothing is sent.
  attempt(change) {
    const draft = this.draft;
    try {
      const after = change(draft);
      const known = new Set(wrongAt(draft, this.avoid).map(String));
      const wrong = wrongAt(after, this.avoid).find((pair) => !known.has(String(pair)));
      if (wrong) return { refused: `Wrong answers were found for ${this.known[wrong[0]].label} with ${asUnits(wrong[1], this.unit)}.` };
      return { after };
    } catch (problem) {
      if (!(problem instanceof Refused)) throw problem;
      return { refused: problem.message };
    }
  }

  tryMove(name, to) {
    const draft = this.draft;
    const from = laneOf(draft, name);
    if (to === from) return { refused: "It is in this lane already." };
    if (to === null && draft.lanes[from].members.length === 1) return { refused: "It has a lane of its own already." };
    return this.attempt((given) => moveMember(given, this.tables, name, to));
  }

  move(name, to) {
    const tried = this.tryMove(name, to);
    const where = to === null ? "free" : this.draft.lanes[to].members[0];
    if (tried.refused) return this.refuse(where, tried.refused);
    const lane = to === null ? null : this.draft.lanes[to].members[0];
    this.ask({ kind: "move", name, to: lane }, where, tried.after);
    this.focus(`step ${name}`);
  }

  // The border below lane `at` as a wish for the lane above it: the next lane gives or takes, else all others do.
  tryBorder(base, at, units) {
    const lane = base.lanes[at];
    const next = base.lanes[at + 1];
    if (lane.pinned) return { refused: `Lane ${at + 1} is pinned: click its head to free its share.` };
    if (next && !base.oversubscribe) {
      if (next.pinned) return { refused: `Lane ${at + 2} is pinned: click its head to free its share.` };
      const both = lane.units + next.units;
      const mine = Math.min(Math.max(units, 1), both - 1);
      return { ...this.attemptFrom(base, new Map([[at, mine], [at + 1, both - mine]])), wanted: [[at, mine], [at + 1, both - mine]] };
    }
    const mine = Math.min(Math.max(units, 1), mostUnits(base, at));
    return { ...this.attemptFrom(base, new Map([[at, mine]])), wanted: [[at, mine]] };
  }

  attemptFrom(base, wanted) {
    return this.attempt(() => setShares(base, this.tables, wanted));
  }

  border(base, at, units, gesture) {
    const tried = this.tryBorder(base, at, units);
    const where = base.lanes[at].members[0];
    if (tried.refused) return this.refuse(where, tried.refused);
    const shares = Object.fromEntries(tried.wanted.map(([lane, share]) => [base.lanes[lane].members[0], share]));
    if (this.gesture?.id === gesture) this.gesture.made = tried.after;
    this.ask({ kind: "share", shares, gesture }, where, tried.after);
    this.focus(`border ${where}`);
  }

  pin(at) {
    const lane = this.draft.lanes[at];
    this.ask({ kind: "pin", lane: lane.members[0], on: !lane.pinned }, lane.members[0], setPinned(this.draft, at, !lane.pinned));
    this.focus(`head ${lane.members[0]}`);
  }

  refuse(where, text) {
    this.why = { where, text };
    this.render();
  }

  focus(key) {
    this.el.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  }

  // --- keys ---------------------------------------------------------------------------------------------------------

  key(event) {
    if (event.key === "Escape" && this.drag) return this.cancelDrag();
    if (event.altKey || event.target.closest("input")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const done = () => {
      event.preventDefault();
      event.stopPropagation();
    };
    if (key === "z") {
      done();
      const kind = event.shiftKey ? "redo" : "undo";
      if (this.view[kind === "undo" ? "can_undo" : "can_redo"]) this.ask({ kind });
      return;
    }
    if (event.ctrlKey || event.metaKey) return;
    const held = event.target.dataset?.key ?? "";
    const [what, name] = [held.slice(0, held.indexOf(" ")), held.slice(held.indexOf(" ") + 1)];
    const at = name ? laneOf(this.draft, name) : -1;
    if (at < 0) return;
    if (key === "p") {
      done();
      return this.pin(at);
    }
    if (what === "step") {
      if (key === "n") {
        done();
        return this.move(name, null);
      }
      const to = { ArrowUp: at - 1, ArrowDown: at + 1 }[key];
      if (to === undefined) return;
      done();
      if (to < 0) return this.refuse(this.draft.lanes[at].members[0], "This is the first lane.");
      return this.move(name, to < this.draft.lanes.length ? to : null);
    }
    if (what === "border") {
      const now = this.draft.lanes[at].units;
      const wide = Math.max(1, Math.round(this.units / 10));
      const to = { ArrowUp: now - 1, ArrowDown: now + 1, PageUp: now - wide, PageDown: now + wide, Home: 1, End: this.units }[key];
      if (to === undefined) return;
      done();
      // One gesture, as long as nothing else has changed shares in between.
      const goesOn = this.gesture?.key === held && sameLanes(this.gesture.made.lanes, this.draft.lanes);
      if (!goesOn) this.gesture = { key: held, id: `keys ${this.number}`, base: this.draft, made: this.draft };
      this.border(this.gesture.base, at, to, this.gesture.id);
    }
  }

  // --- pointers -----------------------------------------------------------------------------------------------------

  grabStep(event, name) {
    if (event.button > 0) return;
    const base = this.draft;
    this.startDrag(event, event.currentTarget, {
      moved: (x, y, el, begun) => {
        el.classList.add("dragged");
        el.style.transform = `translate(${x - begun.x}px, ${y - begun.y}px)`;
        const to = this.placeAt(x, y);
        this.drag.to = to;
        this.mark(to, "");
        if (to === undefined) return this.hint(x, y, "Drop it on a lane, or into the dashed space.");
        const tried = this.stands(base) ? this.tryMove(name, to) : { refused: CHANGED };
        this.mark(to, tried.refused ? "forbidden" : "over");
        if (tried.refused) {
          this.tell(this.forecast(this.draft), this.draft);
          return this.hint(x, y, tried.refused, true);
        }
        const [was, is] = [this.forecast(this.draft), this.forecast(tried.after)];
        this.tell(is, tried.after);
        this.hint(x, y, `Predicted JCT ${forPeople(is.jct_s)}, ${changed(is.jct_s / was.jct_s)}; lane ${is.limiting + 1} limits.`);
      },
      dropped: () => {
        const to = this.drag.to;
        this.drag = null;
        if (to === undefined) return this.render();
        if (!this.stands(base)) return this.refuse("bar", CHANGED);
        this.move(name, to);
      },
    });
  }

  grabBorder(event, at) {
    if (event.button > 0) return;
    const base = this.draft;
    const perUnit = TALL / Math.max(totalUnits(base), base.units);
    const gesture = `drag ${this.number} ${event.timeStamp}`;
    let units = base.lanes[at].units;
    this.startDrag(event, event.currentTarget, {
      moved: (x, y, el, begun) => {
        units = base.lanes[at].units + Math.round((y - begun.y) / perUnit);
        const tried = this.tryBorder(base, at, units);
        if (tried.refused) return this.hint(x, y, tried.refused, true);
        this.layout(tried.after);
        const promised = this.forecast(tried.after);
        this.tell(promised, tried.after);
        this.hint(x, y, `Lane ${at + 1}: ${asUnits(tried.after.lanes[at].units, this.unit)}; predicted JCT ${forPeople(promised.jct_s)}, lane ${promised.limiting + 1} limits.`);
      },
      dropped: () => {
        this.drag = null;
        if (!this.stands(base)) return this.refuse("bar", CHANGED);
        if (units !== base.lanes[at].units) this.border(base, at, units, gesture);
        else this.render();
      },
    });
  }

  startDrag(event, el, { moved, dropped }) {
    if (this.drag) return;
    const begun = { x: event.clientX, y: event.clientY };
    const drag = (this.drag = { far: false });
    el.setPointerCapture(event.pointerId);
    const move = (next) => {
      if (!drag.far && Math.hypot(next.clientX - begun.x, next.clientY - begun.y) < FAR) return;
      drag.far = true;
      moved(next.clientX, next.clientY, el, begun);
    };
    const end = (how) => {
      for (const [name, listener] of Object.entries(listeners)) el.removeEventListener(name, listener);
      el.classList.remove("dragged");
      el.style.transform = "";
      this.tip.hidden = true;
      this.mark(undefined, "");
      if (how === "drop" && drag.far) return dropped();
      this.drag = null;
      this.render();
    };
    const listeners = { pointermove: move, pointerup: () => end("drop"), pointercancel: () => end("cancel") };
    for (const [name, listener] of Object.entries(listeners)) el.addEventListener(name, listener);
    this.cancelDrag = () => end("cancel");
  }

  placeAt(x, y) {
    const over = (el) => {
      const box = el?.getBoundingClientRect();
      return box && x >= box.left && x <= box.right && y >= box.top && y <= box.bottom;
    };
    const rows = [...this.lanes.querySelectorAll(".lane")];
    const at = rows.findIndex(over);
    if (at >= 0) return at;
    return over(this.lanes.querySelector(".free")) ? null : undefined;
  }

  mark(to, how) {
    const rows = [...this.lanes.querySelectorAll(".lane")];
    for (const el of [...rows, this.lanes.querySelector(".free")]) el?.classList.remove("over", "forbidden");
    const target = to === null ? this.lanes.querySelector(".free") : rows[to];
    if (how) target?.classList.add(how);
  }

  hint(x, y, text, warns = false) {
    this.tip.hidden = false;
    this.tip.textContent = text;
    this.tip.classList.toggle("warn", warns);
    const box = this.el.getBoundingClientRect();
    const left = Math.max(0, Math.min(x - box.left + 14, box.width - this.tip.offsetWidth));
    Object.assign(this.tip.style, { left: `${left}px`, top: `${y - box.top - this.tip.offsetHeight - 12}px` });
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  render() {
    if (!this.view) return;
    const focused = this.el.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const draft = this.draft;
    const promised = this.forecast(draft);
    this.tell(promised, draft);
    const ran = this.view.ran && sameLanes(this.view.ran.lanes, draft.lanes) ? this.view.ran : null;
    this.span_s = Math.max(promised.jct_s, promised.bound_s, Math.min(ran?.jct_s ?? 0, MOST_RAN * promised.jct_s)) * 1.02;
    this.lanes.replaceChildren(
      ...draft.lanes.map((lane, at) => this.lane(draft, lane, at, promised, ran)),
      this.free(draft),
      this.axis(ran),
    );
    this.layout(draft);
    this.renderBeside(draft);
    this.renderBar();
    this.say();
    this.paint();
    if (focused) this.focus(focused);
  }

  tell(promised, draft) {
    const guessed = this.guessed(draft);
    const total = totalUnits(draft);
    const whole = `${total} of ${asUnits(this.units, this.unit)}`;
    const over = total > draft.units ? `${whole}, ${total - draft.units} too many` : whole;
    const parts = [
      `bound ${forPeople(promised.bound_s)}`,
      `gap ${percent(promised.gap)}`,
      `lane ${promised.limiting + 1} limits`,
      over,
      this.drag || this.pending.length ? "" : this.view.in_force ? "in force" : this.view.can_apply ? "not in force" : "",
    ];
    const marked = guessed ? ` (${guessed})` : "";
    this.figures.replaceChildren(h("b", {}, `predicted JCT ${forPeople(promised.jct_s)}${marked}`), ` · ${parts.filter(Boolean).join(" · ")}`);
    if (this.view.measured) this.figures.append(h("br"), `measured JCT ${this.view.measured}`);
    for (const [at, row] of [...this.lanes.querySelectorAll(".track")].entries()) row.classList.toggle("limits", at === promised.limiting);
  }

  guessed(draft) {
    const words = new Map();
    for (const lane of draft.lanes)
      for (const name of lane.members) {
        const word = this.known[name].words[lane.units - 1];
        if (word) words.set(word, [...(words.get(word) ?? []), this.known[name].label]);
      }
    return [...words].map(([word, names]) => `${word}: ${names.join(", ")}`).join("; ");
  }

  lane(draft, lane, at, promised, ran) {
    const key = lane.members[0];
    const share = `${asUnits(lane.units, this.unit)} (${Math.round((100 * lane.units) / draft.units)} %)`;
    const short = isMeasure(this.unit) ? asUnits(lane.units, this.unit) : share;
    const head = h(
      "button",
      {
        class: "head",
        "data-key": `head ${key}`,
        "aria-pressed": String(lane.pinned),
        "aria-label": `Lane ${at + 1}, ${share}, ${forPeople(promised.lane_s[at])}: ${lane.pinned ? "pinned" : "not pinned"}`,
        title: lane.pinned ? "Pinned: keeps its share, whatever else moves. Click to free it." : "Click to pin: keep this share, whatever else moves.",
        onclick: () => this.pin(at),
      },
      `lane ${at + 1}${lane.pinned ? ", pinned" : ""}`,
      h("br"),
      short,
    );
    const track = h("div", { class: `track${ran ? " ran" : ""}${promised.limiting === at ? " limits" : ""}` });
    let from = 0;
    for (const name of lane.members) {
      const seconds = this.tables[name][lane.units - 1];
      track.append(this.step(name, lane, at, from, seconds));
      from += seconds;
    }
    track.append(h("div", { class: "bound", style: { left: this.place(promised.bound_s) } }));
    if (ran) this.overlay(track, at, ran);
    const row = h("div", { class: "lane", "data-lane": String(at) }, head, track);
    if (this.why?.where === key || (this.why && lane.members.includes(this.why.where))) row.append(h("div", { class: "why", role: "alert" }, this.why.text));
    const last = at === draft.lanes.length - 1;
    if (!this.view.stuck && !(last && draft.lanes.length === 1 && !draft.oversubscribe)) row.append(this.handle(draft, lane, at, last));
    return row;
  }

  handle(draft, lane, at, last) {
    const key = lane.members[0];
    const most = !last && !draft.oversubscribe ? lane.units + draft.lanes[at + 1].units - 1 : mostUnits(draft, at);
    // A splitter, not a slider: its keys move the border itself, so that ↑ takes from the lane above it.
    return h("div", {
      class: "edge",
      role: "separator",
      tabindex: "0",
      "data-key": `border ${key}`,
      "aria-orientation": "horizontal",
      "aria-valuemin": "1",
      "aria-valuemax": String(most),
      "aria-valuenow": String(lane.units),
      "aria-valuetext": asUnits(lane.units, this.unit),
      "aria-label": last ? `Share of lane ${at + 1}` : `Border between lanes ${at + 1} and ${at + 2}: share of lane ${at + 1}`,
      title: "Drag to move the share; keys: ↑ ↓, Page up and down, Home, End",
      onpointerdown: (event) => this.grabBorder(event, at),
    });
  }

  step(name, lane, at, from, seconds) {
    const { label, ways, words, colour, ink } = this.known[name];
    const marks = [ways[lane.units - 1] === "eager" ? "" : ways[lane.units - 1], words[lane.units - 1]].filter(Boolean);
    const called = marks.length ? `${label} (${marks.join(", ")})` : label;
    return h(
      "button",
      {
        class: `step${words[lane.units - 1] ? " guessed" : ""}`,
        "data-key": `step ${name}`,
        "aria-label": `${called}, ${forPeople(seconds)}, in lane ${at + 1}`,
        "aria-describedby": `esen-${this.page}`,
        title: `${called}: predicted ${forPeople(seconds)} with ${asUnits(lane.units, this.unit)}`,
        style: { left: this.place(from), width: this.place(seconds), backgroundColor: colour, color: ink },
        onpointerdown: (event) => this.grabStep(event, name),
      },
      h("span", {}, `${called} ${forPeople(seconds)}`), // not shown where less than a few letters of it would fit
    );
  }

  overlay(track, at, ran) {
    const own = ran.spans.filter((span) => span[1] === at);
    const begun = Math.min(...own.map((span) => span[2]));
    if (begun > LATE_S && begun > 0.05 * ran.jct_s)
      track.append(h("div", { class: "late", style: { width: this.place(begun) }, title: `began ${forPeople(begun)} after the batch was handed over` }));
    for (const [name, , start, end] of own) {
      const said = `${this.known[name]?.label ?? name}: measured ${forPeople(end - start)}, from ${forPeople(start)} on`;
      const style = { left: this.place(start), width: this.place(end - start), backgroundColor: this.known[name]?.colour ?? "#999" };
      track.append(h("div", { class: "span", style, title: said }));
    }
  }

  free(draft) {
    const left = draft.units - totalUnits(draft);
    const words = left > 0 ? `${asUnits(left, this.unit)} free. Drop a sub-model here for a lane of its own.` : "Drop a sub-model here for a lane of its own.";
    const made = h("div", { class: "free" }, this.view.stuck || words);
    if (this.why?.where === "free") made.append(h("div", { class: "why", role: "alert" }, this.why.text));
    return made;
  }

  axis(ran) {
    const cut = ran && ran.jct_s > this.span_s ? ` (${forPeople(ran.jct_s)}: more than is shown)` : "";
    const middle = ran ? `above: predicted, below: measured${cut}` : this.view.ran ? "the last run was of other lanes" : "predicted";
    return h("div", { class: "axis" }, h("span", {}, "0"), h("span", {}, `${middle}; dashed: proven bound`), h("span", {}, forPeople(this.span_s)));
  }

  place(seconds) {
    return `${(100 * seconds) / this.span_s}%`;
  }

  // Heights by share, without making anything anew: a border that is dragged stays the one that is held.
  layout(draft) {
    const perUnit = TALL / Math.max(totalUnits(draft), draft.units);
    for (const [at, row] of [...this.lanes.querySelectorAll(".lane")].entries()) {
      const lane = draft.lanes[at];
      if (!lane) continue;
      row.querySelector(".track").style.height = `${Math.max(LEAST, lane.units * perUnit)}px`;
      if (!this.drag) continue;
      let from = 0; // lengths too, on the scale of when the drag began
      for (const name of lane.members) {
        const seconds = this.tables[name][lane.units - 1];
        const step = row.querySelector(`[data-key="${CSS.escape(`step ${name}`)}"]`);
        if (step) {
          Object.assign(step.style, { left: this.place(from), width: this.place(seconds) });
          step.lastChild.textContent = `${this.known[name].label} ${forPeople(seconds)}`;
        }
        from += seconds;
      }
      row.querySelector(".head").lastChild.textContent = asUnits(lane.units, this.unit);
    }
  }

  renderBeside(draft) {
    const { past, offered } = this.view;
    const parts = [];
    if (offered.length) parts.push(h("h4", {}, "Accuracy against JCT: who takes part"), ...this.front(offered));
    const others = past.filter((one) => past.length > 1 || !sameLanes(one.lanes, draft.lanes));
    if (others.length) {
      const rows = others.map((one) => {
        const times = [one.measured_s && `${forPeople(one.measured_s)} measured`, one.predicted_s && `${forPeople(one.predicted_s)} predicted`];
        const words = `${times.filter(Boolean).join(", ") || "not predicted"}${one.in_force ? ", in force" : ""}: ${one.described}`;
        const take = () => this.ask({ kind: "recall", past: one.number }, "bar");
        return h("li", {}, h("button", { class: sameLanes(one.lanes, draft.lanes) ? "now" : "", "data-key": `past-${one.number}`, title: "Make this plan the draft; nothing runs", onclick: take }, words));
      });
      parts.push(h("h4", {}, "Plans that were in force"), h("ul", { class: "past" }, ...rows));
    }
    this.beside.replaceChildren(...parts);
    this.main.classList.toggle("alone", !parts.length);
  }

  front(offered) {
    const times = offered.map((one) => one.jct_s);
    const rates = offered.map((one) => one.accuracy);
    const [most, low, high] = [Math.max(...times) * 1.05, Math.min(...rates), Math.max(...rates)];
    const dots = offered.map((one) => {
      const said = `${percent(one.accuracy)} accurate in ${forPeople(one.jct_s)}: ${one.members}`;
      const style = { left: `${(100 * one.jct_s) / most}%`, bottom: `${high > low ? 8 + (84 * (one.accuracy - low)) / (high - low) : 50}%` };
      const take = () => this.ask({ kind: "take", offered: one.number }, "bar");
      const title = `${said}. Click: from now on only these run.`;
      return h("button", { class: one.in_force ? "now" : "", "data-key": `offered-${one.number}`, "aria-label": said, "aria-pressed": String(one.in_force), title, style, disabled: Boolean(this.view.doing), onclick: take });
    });
    const top = h("span", { style: { right: "calc(100% + 3px)", bottom: high > low ? "86%" : "45%" } }, percent(high));
    const base = high > low ? h("span", { style: { right: "calc(100% + 3px)", bottom: "3%" } }, percent(low)) : null;
    return [h("div", { class: "front", role: "group", "aria-label": "Accuracy against JCT" }, top, base, ...dots), h("div", { class: "under" }, `predicted JCT, 0 to ${forPeople(most)}`)];
  }

  buttons() {
    const all = {
      propose: ["Propose", "search for the best lanes; pinned ones keep their share"],
      cancel: ["Cancel", "stop the search"],
      apply: ["Apply", "put these lanes in force: they start, then the old ones end"],
      measure: ["Measure", "apply, and run the example input"],
      undo: ["Undo", "take the last move back"],
      redo: ["Redo", "make it again"],
      reset: ["Reset", "back to the plan in force"],
    };
    this.press = {};
    for (const [kind, [words, title]] of Object.entries(all)) {
      this.press[kind] = h("button", { title, "data-key": `press-${kind}`, onclick: () => this.ask({ kind }, "bar") }, words);
      this.bar.append(this.press[kind]);
    }
    this.over = h("input", { type: "checkbox", onchange: () => this.oversubscribe(this.over.checked) });
    this.reason = h("span", { class: "why", role: "alert" });
    this.bar.append(h("label", {}, this.over, "more than the device"), this.reason);
  }

  // What was ticked stays so until the kernel has heard it: states from before would take the tick away meanwhile.
  oversubscribe(on) {
    this.ticked = this.number + 1;
    this.ask({ kind: "oversubscribe", on }, "bar");
  }

  renderBar() {
    const view = this.view;
    const off = {
      propose: view.searching,
      cancel: !view.searching,
      apply: Boolean(view.doing) || !view.can_apply || view.in_force,
      measure: Boolean(view.doing) || !view.can_apply,
      undo: !view.can_undo,
      redo: !view.can_redo,
    };
    for (const [kind, button] of Object.entries(this.press)) button.disabled = off[kind] ?? false;
    if (!(this.ticked > (view.heard[this.page] ?? 0))) this.over.checked = view.oversubscribe;
    this.reason.textContent = this.why && (this.why.where === "bar" || !this.why.where) ? this.why.text : "";
  }

  say(more = "") {
    this.notes.classList.toggle("warn", this.view.failed);
    this.notes.textContent = [...this.view.notes, more].filter(Boolean).join(" ");
  }
}

export default {
  render({ model, el }) {
    const board = new Board(model, el);
    return () => board.close();
  },
};
