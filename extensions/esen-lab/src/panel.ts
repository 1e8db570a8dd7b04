/** The sidebar panel: what is known of the notebook in front, and the buttons. */

import { Widget } from "@lumino/widgets";

import { h, morph } from "./dom";
import { drawSections } from "./draw";
import { Focus } from "./focus";
import { emptyState, Empty } from "./states";

export interface PanelActs {
  /** Insert a cell with this source into the notebook in front. */
  insert(source: string): void;
  /** Run a command of JupyterLab. */
  command(id: string): void;
  showLines(): boolean;
  setShowLines(on: boolean): void;
}

export class Panel extends Widget {
  private body = h("div.esen-body");
  private title_ = h("div.esen-notebook", { "aria-live": "polite" });
  private lines = h("input", { type: "checkbox", id: "esen-show-lines" }) as HTMLInputElement;
  private waiting = 0;
  private unlisten: () => void;
  private empty: Empty | null = null;

  constructor(
    private focus: Focus,
    private acts: PanelActs,
  ) {
    super();
    this.id = "esen-lab-panel";
    this.title.caption = "esen_lab: device, ensemble, jobs and plan";
    this.addClass("esen-panel");
    this.node.setAttribute("role", "region");
    this.node.setAttribute("aria-label", "esen_lab");
    this.lines.checked = acts.showLines();
    this.lines.addEventListener("change", () => {
      this.acts.setShowLines(this.lines.checked);
      this.draw();
    });
    const toggle = h(
      "label.esen-faint",
      { for: "esen-show-lines" },
      this.lines,
      " show the lines that buttons stand for",
    );
    this.node.append(h("div.esen-head", {}, this.title_, toggle), this.body);
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.unlisten = focus.listen(() => this.later());
    this.draw();
  }

  /** Settings changed. */
  refresh(): void {
    this.lines.checked = this.acts.showLines();
    this.later();
  }

  dispose(): void {
    if (this.isDisposed) return;
    this.unlisten();
    cancelAnimationFrame(this.waiting);
    super.dispose();
  }

  protected onAfterShow(): void {
    this.later();
  }

  /** Draw once before the next frame, however many changes come until then; not at all while nobody sees it. */
  private later(): void {
    if (this.waiting || !this.isVisible) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.draw();
    });
  }

  private draw(): void {
    const notebook = this.focus.notebook;
    const connection = this.focus.connection;
    const title = notebook ? notebook.title.label : "";
    if (this.title_.textContent !== title) this.title_.textContent = title;
    this.empty = emptyState({
      notebook: notebook !== null,
      kernel: connection !== null,
      phase: connection?.phase ?? null,
      restarted: connection?.restarted ?? false,
      text: connection?.text ?? "",
      submodels: connection?.sections.ensemble?.submodels.length ?? 0,
      example: connection?.sections.next_step?.example ?? "",
    });
    const drawn: HTMLElement[] = [];
    if (this.empty) {
      const { cause, cure } = this.empty;
      drawn.push(
        h(
          "div.esen-empty",
          { role: "status" },
          h("p", {}, cause),
          cure &&
            h(
              "button.esen-button.esen-suggested",
              { type: "button", "data-cure": true, title: cure.line },
              cure.label,
            ),
        ),
      );
    }
    if (connection?.phase === "live") {
      if (connection.text) {
        drawn.push(
          h(`div.esen-said.esen-said-${connection.level}`, { role: "alert" }, connection.text),
        );
      }
      drawn.push(...drawSections(connection.sections, this.acts.showLines()));
    }
    morph(this.body, drawn);
  }

  private clicked(event: Event): void {
    const button = (event.target as Element).closest("button");
    if (!button) return;
    const { action, stop, cure } = button.dataset;
    const connection = this.focus.connection;
    if (stop !== undefined) {
      connection?.stop(stop || undefined);
    } else if (action !== undefined) {
      const found = connection?.sections.actions?.find((row) => row.id === action);
      if (found) this.acts.insert(found.line);
    } else if (cure !== undefined && this.empty?.cure) {
      const { line, command } = this.empty.cure;
      if (line !== undefined) this.acts.insert(line);
      if (command !== undefined) this.acts.command(command);
    }
  }
}
