// Live plots: BokehJS from the kernel's own package, a document made by the kernel, rows that stream in.
//
// The model's state ("doc") is complete whenever a page is loaded. Messages carry the number of their newest sample and
// repeat the last few samples, so a page that missed some loses nothing; one that missed more asks for a new document.
// Commands go through a widget of their own, see commands.py, which also gives the functions `child` and `command`.

const STALE_AFTER = 4; // intervals without a message
const LEAST_STALE_MS = 3000;
const MOST_MARKS = 500;
const NARROW_PX = 560;

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
    const feed = { views: new Set(), heard: Date.now(), said: "" };
    begin(feed, JSON.parse(model.get("doc")));
    feeds.set(key, feed);
    feed.listen = (message) => hear(model, feed, message);
    model.on("msg:custom", feed.listen);
  }
  return feeds.get(key);
}

// What came after the document: as many samples as are kept, for a view that is made later.
function begin(feed, doc) {
  Object.assign(feed, { doc, number: doc.number, rows: {}, marks: { t: [], what: [] }, marked: doc.marks });
}

function hear(model, feed, message) {
  feed.heard = Date.now();
  if (message.kind === "doc") {
    begin(feed, message.doc);
    for (const view of feed.views) view.rebuild();
    return;
  }
  if (message.generation !== feed.doc.generation) return; // of a document that is on its way
  if (message.first > feed.number + 1) {
    command(model, { kind: "resync" });
    return;
  }
  if (message.number > feed.number) {
    const known = feed.number - (message.first - 1);
    for (const [key, values] of Object.entries(message.rows)) {
      const kept = (feed.rows[key] = feed.rows[key] || []);
      for (const value of values.slice(known)) kept.push(value === null ? NaN : value);
      kept.splice(0, kept.length - feed.doc.rollover);
    }
    feed.number = message.number;
  }
  if (message.marks && message.marks_to > feed.marked) {
    for (const key of ["t", "what"]) {
      feed.marks[key].push(...message.marks[key]);
      feed.marks[key].splice(0, feed.marks[key].length - MOST_MARKS);
    }
    feed.marked = message.marks_to;
  }
  feed.said = message.said ?? feed.said;
  for (const view of feed.views) view.take();
}

function last(columns, count) {
  if (count <= 0 || !Object.keys(columns).length) return null;
  return Object.fromEntries(Object.entries(columns).map(([key, values]) => [key, values.slice(-count)]));
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
    this.number = this.feed.doc.number;
    this.marked = this.feed.doc.marks;
    this.catchUp();
    this.follow();
    this.paint();
    this.fit();
    this.say();
  }

  take() {
    this.catchUp();
    this.follow();
    this.say();
  }

  catchUp() {
    if (!this.doc) return;
    const { feed } = this;
    const rows = last(feed.rows, feed.number - this.number);
    if (rows) this.doc.get_model_by_name("samples").stream(rows, feed.doc.rollover);
    const marks = last(feed.marks, feed.marked - this.marked);
    if (marks) this.doc.get_model_by_name("marks").stream(marks, MOST_MARKS);
    this.number = feed.number;
    this.marked = feed.marked;
  }

  follow() {
    if (this.paused || !this.doc) return;
    const range = this.doc.get_model_by_name("time");
    const times = this.doc.get_model_by_name("samples").data.t;
    if (times.length) range.setv({ start: times[times.length - 1] - this.window_ms, end: times[times.length - 1] });
  }

  pause(on) {
    this.paused = on;
    this.button.textContent = on ? "Live" : "Pause";
    this.follow();
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
    const stale = this.stale();
    if (stale !== this.was_stale || stale) this.say();
    this.was_stale = stale;
  }

  say() {
    const stale = this.stale();
    this.el.classList.toggle("esen-stale", stale);
    const seconds = Math.round((Date.now() - this.feed.heard) / 1000);
    this.said.textContent = stale
      ? `Stale: nothing heard for ${seconds} s. The kernel was restarted, stopped or lost; what you see is the past.`
      : [this.paused ? "Held; samples go on." : "", this.feed.said].filter(Boolean).join(" ");
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
