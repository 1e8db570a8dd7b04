/** The plots of `%esen watch` as a tab: drawn by the same program, from messages of the panel's conversation. */

import { Widget } from "@lumino/widgets";

import { Connection } from "./connection";
import { h } from "./dom";
import { Focus } from "./focus";
import live from "./live.js";
import { Message } from "./protocol";
import { emptyState } from "./states";

/** BokehJS by version, from whichever kernel sent it first: a page holds it once. */
const sources = new Map<string, string>();
let made = 0;

/** What `live.js` takes for the model of a widget. */
class Model {
  private heard = new Set<(message: unknown) => void>();
  private readonly key = `tab ${++made}`;

  constructor(
    private version: string,
    private doc: unknown,
    readonly ask: () => void,
  ) {}

  readonly widget_manager = {
    get_model: async () => ({
      get: (name: string) => (name === "version" ? this.version : sources.get(this.version)),
    }),
  };

  get(name: string): unknown {
    if (name === "commands") return this.key;
    if (name === "doc") return JSON.stringify(this.doc);
    return "IPY_MODEL_bokeh";
  }

  on(_: string, listener: (message: unknown) => void): void {
    this.heard.add(listener);
  }

  off(_: string, listener: (message: unknown) => void): void {
    this.heard.delete(listener);
  }

  tell(message: unknown): void {
    for (const listener of this.heard) listener(message);
  }
}

export interface MonitorSettings {
  interval_s: number;
  history_s: number;
}

export class Monitor extends Widget {
  private shown: Connection | null = null;
  private end: (() => void)[] = [];
  private model: Model | null = null;
  private words = h("p.esen-empty", { role: "status" });
  private plots = h("div.esen-monitor-plots");
  private unlisten: () => void;

  constructor(
    private focus: Focus,
    private settings: () => MonitorSettings,
  ) {
    super();
    this.id = "esen-lab-monitor";
    this.title.label = "esen monitor";
    this.title.caption = "Live utilization of the device of the notebook in front";
    this.title.closable = true;
    this.addClass("esen-monitor");
    this.node.append(this.words, this.plots);
    this.unlisten = focus.listen(() => this.follow());
    this.follow();
  }

  dispose(): void {
    if (this.isDisposed) return;
    this.unlisten();
    this.clear();
    super.dispose();
  }

  private follow(): void {
    const connection = this.focus.connection;
    const isLive = connection?.phase === "live";
    if (isLive && connection !== this.shown) {
      this.clear();
      this.shown = connection;
      this.say("Waiting for the first readings …");
      this.end.push(
        connection.monitor(
          (message) => void this.take(message).catch((failure) => this.failed(failure)),
          {
            have: [...sources.keys()],
            ...this.settings(),
          },
        ),
      );
    } else if (
      !isLive &&
      (this.shown === null || connection !== this.shown || connection.phase !== "waiting")
    ) {
      // Plots that were shown stay: `live.js` marks them as the past.
      const empty = emptyState({
        notebook: this.focus.notebook !== null,
        kernel: connection !== null,
        phase: connection?.phase ?? null,
        restarted: connection?.restarted ?? false,
        text: connection?.text ?? "",
        submodels: null,
        example: "",
      });
      if (connection !== this.shown || connection === null) {
        this.clear();
        this.say(empty?.cause ?? "");
      } else if (!connection.isOpen() && connection.phase !== "lost") {
        // Its conversation begins anew when it is live again.
        this.shown = null;
        for (const end of this.end.splice(0)) end();
        this.say(empty?.cause ?? "");
      }
    }
  }

  private async take(message: Message): Promise<void> {
    switch (message.what) {
      case "bokeh":
        sources.set(String(message.version), String(message.source));
        break;
      case "doc":
        await this.begin(message);
        break;
      case "rows":
        this.model?.tell({ ...message, kind: "rows" });
        break;
      case "none":
        this.say(message.text ?? "");
        break;
    }
  }

  private async begin(message: Message): Promise<void> {
    this.say("");
    if (this.model) {
      this.model.tell({ kind: "doc", doc: message.doc });
      return;
    }
    const version = String(message.bokeh);
    const shown = this.shown;
    const model = (this.model = new Model(version, message.doc, () => shown?.resyncMonitor()));
    const forget = live.initialize({ model });
    this.plots.replaceChildren();
    const close = await live.render({ model, el: this.plots });
    const ended = () => {
      close();
      forget();
    };
    if (this.model === model) this.end.push(ended);
    else ended();
  }

  private failed(failure: unknown): void {
    console.error("esen_lab:", failure);
    this.say(`The plots cannot be drawn: ${String(failure)}`);
  }

  private clear(): void {
    for (const end of this.end.splice(0)) end();
    this.model = null;
    this.shown = null;
    this.plots.replaceChildren();
    this.plots.className = "esen-monitor-plots";
  }

  private say(text: string): void {
    this.words.textContent = text;
    this.words.hidden = !text;
  }
}
