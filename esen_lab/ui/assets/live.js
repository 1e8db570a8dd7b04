// Live plots: BokehJS from the kernel's own package, a document made by the kernel, rows that stream in.
//
// The model's state ("doc") is complete whenever a page is loaded. Messages carry the number of their newest sample and
// repeat the last few samples, so a page that missed some loses nothing; one that missed more asks for a new document.
// Commands go through a widget of their own, see commands.py, which also gives the functions `child` and `command`.
//
// Hearing a message is cheap, drawing is not: all views of a page draw one after another, and the page rests after each
// drawing for a multiple of what it took. So however many samples come, drawing takes a bounded part of the page's time.
// How fast it draws is told to the kernel where it changes much: messages need not come faster.

const STALE_AFTER = 4; // intervals without a message
const LEAST_STALE_MS = 3000;
const MOST_MARKS = 500;
const NARROW_PX = 560;
const MOST_POINTS = 1200; // of a line that is drawn: of more samples, means
const SMALL_PX = 400;
const TIME_PX = 70; // of a time below a plot
const LETTER_PX = 14; // a line of text
const MOST_OVERVIEW = 300;
const LEAST_DRAW_MS = 100; // between two drawings of a view
const REST = 3; // times what a drawing took: at most a quarter of the page's time is ours

// The drawings of a page, whichever widgets they are of.
class Draws {
  constructor() {
    Object.assign(this, { waiting: new Set(), timer: 0, took_ms: [] });
  }

  ask(view) {
    this.waiting.add(view);
    this.timer ||= setTimeout(() => void this.next(), LEAST_DRAW_MS);
  }

  async next() {
    let rest = LEAST_DRAW_MS;
    for (const view of [...this.waiting]) {
      this.waiting.delete(view);
      if (!view.inSight()) continue; // it asks again when it is seen
      const took = await painted(() => view.draw());
      this.took_ms = [...this.took_ms.slice(-199), took];
      rest = Math.max(REST * took, LEAST_DRAW_MS / Math.max(1, this.waiting.size));
      break;
    }
    this.timer = this.waiting.size ? setTimeout(() => void this.next(), rest) : 0;
  }

  // What a view can expect: the time from one of its drawings to the next.
  pace(views) {
    const recent = this.took_ms.slice(-20).sort((a, b) => a - b);
    const usual = recent[Math.floor(recent.length / 2)] ?? 0;
    return Math.max(LEAST_DRAW_MS, views * (1 + REST) * usual);
  }
}

// How long the page was busy with `draw` and the painting that it caused, in ms.
async function painted(draw) {
  const begun = performance.now();
  draw();
  const drawn = performance.now();
  const frame = await new Promise((resolve) => {
    const late = setTimeout(() => resolve(null), 500); // a page that is not shown paints nothing
    requestAnimationFrame(() => {
      clearTimeout(late);
      const at = performance.now();
      setTimeout(() => resolve(performance.now() - at)); // after the frame's own work
    });
  });
  return drawn - begun + (frame ?? 0);
}

const draws = (window.__esen_draws = window.__esen_draws || new Draws());

async function bokeh(model) {
  const loader = await child(model, "loader");
  const version = loader.get("version");
  const kept = (window.__esen_bokeh = window.__esen_bokeh || {});
  if (!kept[version]) {
    const box = {}; // not `window`: the user's own BokehJS stays what it is
    new Function(loader.get("source")).call(box);
    kept[version] = box.Bokeh;
  }
  window.esenBokeh = kept[version];
  return kept[version];
}

const feeds = new Map(); // by the loader of commands, one per model: what all views of one output share

function feedOf(model) {
  const key = model.get("commands");
  if (!feeds.has(key)) {
    const feed = { views: new Set(), heard: Date.now(), said: "", pace: LEAST_DRAW_MS };
    begin(feed, JSON.parse(model.get("doc")));
    feeds.set(key, feed);
    feed.listen = (message) => hear(model, feed, message);
    model.on("msg:custom", feed.listen);
  }
  return feeds.get(key);
}

// All samples that the page keeps, by column, and the marks.
function begin(feed, doc) {
  feed.ahead = -60000 * new Date().getTimezoneOffset();
  const rows = Object.entries(doc.rows).map(([key, values]) => [key, plotted(feed, key, values)]);
  const marks = { t: plotted(feed, "t", doc.noted.t), what: [...doc.noted.what] };
  Object.assign(feed, { doc, number: doc.number, rows: Object.fromEntries(rows), marks, marked: doc.marks, over: doc.over ?? "" });
}

const number = (value) => (value === null ? NaN : value);

// Times as BokehJS is to be given them: it writes them as those of Greenwich, and people look at their own clock. All by
// one difference, so that they rise, also where the clocks change meanwhile.
function plotted(feed, key, values) {
  return key === "t" ? values.map((at) => at + feed.ahead) : values.map(number);
}

function hear(model, feed, message) {
  feed.heard = Date.now();
  if (message.kind === "doc") {
    begin(feed, message.doc);
    for (const view of feed.views) view.rebuild();
    return;
  }
  if (message.kind === "over") { // nothing comes any more, and the kernel lives
    feed.over = message.said;
    for (const view of feed.views) view.say();
    return;
  }
  if (message.generation !== feed.doc.generation) return; // of a document that is on its way
  if (message.first > feed.number + 1) {
    command(model, { kind: "resync" });
    return;
  }
  if (message.number > feed.number) {
    const known = feed.number - (message.first - 1);
    for (const [key, kept] of Object.entries(feed.rows)) kept.push(...plotted(feed, key, message.rows[key].slice(known)));
    trim(feed);
    feed.number = message.number;
  }
  if (message.marks && message.marks_to > feed.marked) {
    for (const key of ["t", "what"]) {
      feed.marks[key].push(...(key === "t" ? plotted(feed, key, message.marks[key]) : message.marks[key]));
      feed.marks[key].splice(0, feed.marks[key].length - MOST_MARKS);
    }
    feed.marked = message.marks_to;
  }
  feed.said = message.said ?? feed.said;
  for (const view of feed.views) view.take();
  const pace = draws.pace(feed.views.size);
  if (pace > 2 * feed.pace || pace < feed.pace / 2) {
    feed.pace = pace;
    command(model, { kind: "pace", ms: Math.round(pace) });
  }
}

// Forget what is older than the history.
function trim(feed) {
  const { t } = feed.rows;
  const since = t[t.length - 1] - 1000 * feed.doc.interval_s * feed.doc.rollover;
  const gone = Math.max(before(t, since + 1), t.length - feed.doc.rollover);
  if (gone > 0) for (const kept of Object.values(feed.rows)) kept.splice(0, gone);
}

// How many of the ascending times are before `at`.
function before(times, at) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < at) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The values from `first` to before `end`, or means of neighbours where there are more than `most`.
function thinned(values, first, end, most) {
  const step = Math.ceil((end - first) / most);
  if (step <= 1) return values.slice(first, end);
  const found = [];
  for (let at = first; at < end; at += step) {
    let sum = 0;
    let count = 0;
    for (let i = at; i < Math.min(at + step, end); i++) {
      if (Number.isNaN(values[i])) continue;
      sum += values[i];
      count += 1;
    }
    found.push(count ? sum / count : NaN);
  }
  return found;
}

// What marks say, each upright beside its line: of those that stand closer than `apart` ms the first one has words.
function legible(marks, apart) {
  let last = -Infinity;
  return marks.t.map((at, i) => {
    if (at - last < apart) return "";
    last = at;
    return marks.what[i];
  });
}

// As many times below a plot as stand beside each other.
function ticks(width, narrow) {
  return Math.max(2, Math.min(6, Math.floor((width - (narrow ? 70 : 320)) / TIME_PX)));
}

function dark() {
  const light = document.body.dataset.jpThemeLight;
  if (light) return light === "false";
  return window.matchMedia("(prefers-color-scheme: dark)").matches;
}

class View {
  constructor(Bokeh, model, feed, el) {
    Object.assign(this, { Bokeh, model, feed, el, paused: false, window_ms: 60000 });
    el.classList.add("esen-live");
    el.innerHTML = `<div class="esen-bar">
        <button class="esen-pause" title="Hold the plots still; samples go on being taken">Pause</button>
        <label>Show <select class="esen-window">
          <option value="60000">1 minute</option><option value="300000">5 minutes</option>
          <option value="1800000">30 minutes</option></select></label>
        <span class="esen-said" role="status"></span></div>
      <div class="esen-plots"></div><div class="esen-names"></div>`;
    this.plots = el.querySelector(".esen-plots");
    this.names = el.querySelector(".esen-names");
    this.wide = new ResizeObserver(() => this.fit());
    this.wide.observe(el);
    this.button = el.querySelector(".esen-pause");
    this.said = el.querySelector(".esen-said");
    this.button.addEventListener("click", () => this.pause(!this.paused));
    el.querySelector(".esen-window").addEventListener("change", (event) => {
      this.window_ms = Number(event.target.value);
      this.pause(false);
    });
    // Whoever zooms or brushes wants to look: the plots stay where they were put until "Live".
    for (const kind of ["pointerdown", "wheel"])
      this.plots.addEventListener(kind, () => this.pause(true), { passive: true, capture: true });
    this.theme = new MutationObserver(() => this.paint());
    this.theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    this.timer = setInterval(() => this.look(), 500);
  }

  async rebuild() {
    this.drop();
    const target = document.createElement("div");
    this.plots.replaceChildren(target);
    const views = await this.Bokeh.embed.embed_item(structuredClone(this.feed.doc.item), target);
    this.manager = views;
    this.doc = this.Bokeh.documents[this.Bokeh.documents.length - 1];
    this.marked = -1;
    this.overview = 0;
    const asked = () => this.paused && draws.ask(this); // somebody looks at another time
    this.doc.get_model_by_name("time")?.change.connect(asked);
    this.draw();
    this.paint();
    this.fit();
    this.say();
  }

  take() {
    this.behind = true;
    draws.ask(this);
    this.say();
  }

  inSight() {
    if (document.hidden || !this.el.isConnected) return false;
    const { top, bottom, width } = this.plots.getBoundingClientRect();
    return width > 0 && bottom > 0 && top < window.innerHeight;
  }

  // Whatever came, in one change of the data: as many points as can be seen.
  draw() {
    this.behind = false;
    const { rows, marks, marked } = this.feed;
    const time = this.doc?.get_model_by_name("time");
    if (!time || !rows.t?.length) return;
    const last = rows.t[rows.t.length - 1];
    if (!this.paused) time.setv({ start: last - this.window_ms, end: last });
    let [first, end] = [0, rows.t.length];
    if (end > MOST_POINTS) {
      const margin = (time.end - time.start) / 2;
      first = Math.max(0, before(rows.t, time.start - margin) - 1);
      end = Math.min(end, before(rows.t, time.end + margin) + 1);
    }
    const shown = Object.entries(rows).map(([key, values]) => [key, thinned(values, first, end, MOST_POINTS)]);
    this.doc.get_model_by_name("samples").data = Object.fromEntries(shown);
    const what = legible(marks, (LETTER_PX * (time.end - time.start)) / Math.max(1, this.plots.clientWidth));
    if (marked !== this.marked || String(what) !== this.said_marks) {
      this.doc.get_model_by_name("marks").data = { t: [...marks.t], what };
      this.marked = marked;
      this.said_marks = String(what);
    }
    if (Date.now() - this.overview > 1000) {
      const history = this.doc.get_model_by_name("history");
      const columns = Object.keys(history.data);
      history.data = Object.fromEntries(
        columns.map((key) => [key, thinned(rows[key], 0, rows.t.length, MOST_OVERVIEW)]),
      );
      this.overview = Date.now();
    }
  }

  pause(on) {
    this.paused = on;
    this.button.textContent = on ? "Live" : "Pause";
    draws.ask(this);
    this.say();
  }

  paint() {
    if (!this.doc) return;
    const ink = dark() ? "#d4d4d4" : "#333333";
    const faint = dark() ? "#4a4a4a" : "#dddddd";
    for (const model of this.doc._all_models.values()) {
      if (model.type.endsWith("Axis"))
        model.setv({ major_label_text_color: ink, axis_label_text_color: ink, axis_line_color: faint,
                     major_tick_line_color: faint, minor_tick_line_color: null });
      else if (model.type === "Grid") model.setv({ grid_line_color: faint });
      else if (model.type === "Legend") model.setv({ label_text_color: ink });
      else if (model.type === "Title" || model.type === "LabelSet") model.setv({ text_color: ink });
      else if (model.type === "Figure") model.setv({ outline_line_color: faint });
    }
    this.el.classList.toggle("esen-dark", dark());
  }

  // Where there is little room, the names stand below the plots instead of beside them.
  fit() {
    if (!this.doc) return;
    const narrow = this.el.clientWidth < NARROW_PX;
    const models = [...this.doc._all_models.values()];
    for (const model of models) if (model.type === "Legend" && model.visible === narrow) model.visible = !narrow;
    for (const model of models) {
      if (model.type === "DatetimeAxis") model.ticker.desired_num_ticks = ticks(this.el.clientWidth, narrow);
      if (model.type === "Title") model.text_font_size = this.el.clientWidth < SMALL_PX ? "10px" : "13px";
    }
    this.el.classList.toggle("esen-narrow", narrow);
    const lines = !narrow ? [] : models.filter((model) => model.type === "Figure" && model.name !== "overview").map((plot) => {
      const line = document.createElement("div");
      line.append(`${plot.title?.text ?? plot.name}: `);
      for (const item of plot.right.flatMap((panel) => panel.items ?? [])) {
        const name = document.createElement("span");
        name.style.setProperty("--esen-colour", item.renderers[0].glyph.line_color?.value ?? "#888");
        name.textContent = item.label?.value ?? String(item.label);
        line.append(name);
      }
      return line;
    });
    this.names.replaceChildren(...lines);
  }

  stale() {
    const patience = Math.max(LEAST_STALE_MS, STALE_AFTER * 1000 * this.feed.doc.interval_s);
    return Date.now() - this.feed.heard > patience;
  }

  look() {
    if (this.behind) draws.ask(this); // it was out of sight
    const stale = this.stale();
    if (stale !== this.was_stale || stale) this.say();
    this.was_stale = stale;
  }

  say() {
    const { over } = this.feed;
    const stale = this.stale();
    this.el.classList.toggle("esen-stale", Boolean(over) || stale);
    const seconds = Math.round((Date.now() - this.feed.heard) / 1000);
    this.said.textContent = over || (stale
      ? `Stale: nothing heard for ${seconds} s. The kernel was restarted, stopped or lost; what you see is the past.`
      : [this.paused ? "Held; samples go on." : "", this.feed.said].filter(Boolean).join(" "));
  }

  drop() {
    if (this.manager) for (const root of this.manager.roots ?? []) root.remove?.();
    if (this.doc) {
      const at = this.Bokeh.documents.indexOf(this.doc);
      this.doc.clear();
      if (at >= 0) this.Bokeh.documents.splice(at, 1);
    }
    this.doc = this.manager = null;
  }

  close() {
    draws.waiting.delete(this);
    clearInterval(this.timer);
    this.theme.disconnect();
    this.wide.disconnect();
    this.drop();
  }
}

export default {
  initialize({ model }) {
    feedOf(model);
    return () => {
      const feed = feeds.get(model.get("commands"));
      if (feed) model.off("msg:custom", feed.listen);
      feeds.delete(model.get("commands"));
    };
  },
  async render({ model, el }) {
    const feed = feedOf(model);
    const view = new View(await bokeh(model), model, feed, el);
    feed.views.add(view);
    await view.rebuild();
    return () => {
      feed.views.delete(view);
      view.close();
    };
  },
};
