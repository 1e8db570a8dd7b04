// Lays a widget over the place that stands for it in a cell's output.
//
// The notebook's file has plain HTML only: an empty place, and perhaps a still form of the same thing (see laid.py). A
// page whose kernel has the widget puts it into every such place, and hides the still form meanwhile; without the
// kernel nothing is laid, and the file shows what it holds. Pages may draw outputs anew, take them away and bring them
// back (scrolling, a second view of an output), so places are looked for whenever the page changes. `child` is from
// commands.py.

const LOOK_MS = 50; // between two looks at a page that changes
const GONE_MS = 30000; // a place that is out of the page for so long is not scrolled away, it is gone

// Names for what screen readers meet: ipywidgets gives handles and lists of choices none of their own.
function name(host) {
  const say = (field, text) => {
    if (text && field.getAttribute("aria-label") !== text) field.setAttribute("aria-label", text);
  };
  for (const handle of host.querySelectorAll(".noUi-handle")) {
    say(handle, handle.closest(".widget-slider")?.querySelector(".widget-label")?.textContent || "share");
  }
  for (const field of host.querySelectorAll("select, input[type=text], input[type=number], textarea")) {
    const box = field.closest(".jupyter-widgets");
    const before = box?.previousElementSibling?.textContent;
    say(field, box?.querySelector(".widget-label")?.textContent || before || field.title || "value");
  }
}

function laid(model) {
  const place = `esen-${model.get("key")}`;
  const manager = model.widget_manager;
  const shown = child(model, "shown");
  const views = new Map(); // place in the page -> { host, widget, gone }
  const hides = document.createElement("style");
  hides.textContent = `.${place}-still { display: none !important; }`;
  let waiting = 0;
  let over = false;

  // An output that shows the newest state itself needs nothing laid over it: see "newest" in laid.py.
  const stale = (element) => {
    const newest = model.get("newest");
    return !newest || !element.classList.contains(`esen-n${newest}`);
  };

  async function lay(element) {
    const entry = { gone: 0, host: document.createElement("div"), widget: null };
    views.set(element, entry);
    try {
      const view = await manager.create_view(await shown);
      const widget = view.luminoWidget ?? view.pWidget;
      if (over || !views.has(element) || !element.isConnected) {
        views.delete(element);
        widget.dispose();
        return;
      }
      entry.host.className = "esen-laid";
      entry.host.dataset.lmSuppressShortcuts = "true"; // keys are the widget's, not the notebook's
      element.replaceChildren(entry.host);
      widget.constructor.attach(widget, entry.host);
      entry.widget = widget;
    } catch (problem) {
      console.warn("esen_lab: a widget is not shown; its still form is.", problem);
      entry.failed = true;
    }
    show();
  }

  function drop(element) {
    const entry = views.get(element);
    views.delete(element);
    if (entry?.widget && !entry.widget.isDisposed) {
      if (!entry.host.isConnected) document.body.append(entry.host); // Lumino takes away only what is in the page
      entry.widget.dispose();
    }
    entry?.host.remove();
  }

  function show() {
    const any = [...views.values()].some((entry) => entry.widget);
    if (any && !hides.isConnected) document.head.append(hides);
    else if (!any) hides.remove();
  }

  function look() {
    waiting = 0;
    if (over) return;
    const now = Date.now();
    for (const element of [...document.getElementsByClassName(place)]) {
      if (!views.has(element) && stale(element)) void lay(element);
    }
    for (const { host } of views.values()) name(host);
    for (const [element, entry] of [...views]) {
      if (element.isConnected) entry.gone = 0;
      else if (!entry.gone) entry.gone = now;
      else if (now - entry.gone > GONE_MS) drop(element);
    }
    show();
  }

  const soon = () => (waiting ||= setTimeout(look, model.get("newest") ? 500 : LOOK_MS));
  const observer = new MutationObserver(soon);
  observer.observe(document.body, { childList: true, subtree: true });
  model.on("change:newest", soon);
  soon();
  return () => {
    over = true;
    clearTimeout(waiting);
    observer.disconnect();
    model.off("change:newest", soon);
    for (const element of [...views.keys()]) drop(element);
    hides.remove();
  };
}

export default { initialize: ({ model }) => laid(model) };
