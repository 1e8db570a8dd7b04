/** The item of the status bar: utilization and the running job, in a few words. */

import { Widget } from "@lumino/widgets";

import { Focus } from "./focus";
import { statusText } from "./states";

export class StatusItem extends Widget {
  private unlisten: () => void;
  private allowed_ = true;

  constructor(
    private focus: Focus,
    open: () => void,
  ) {
    super({ node: document.createElement("button") });
    this.addClass("esen-status");
    this.node.setAttribute("type", "button");
    this.node.title = "Open the panel of esen_lab";
    this.node.addEventListener("click", open);
    this.unlisten = focus.listen(() => this.draw());
    this.draw();
  }

  /** Whether it may be shown at all. */
  set allowed(on: boolean) {
    this.allowed_ = on;
    this.draw();
  }

  dispose(): void {
    if (this.isDisposed) return;
    this.unlisten();
    super.dispose();
  }

  private draw(): void {
    const connection = this.focus.connection;
    const text =
      this.allowed_ && connection?.phase === "live" ? statusText(connection.sections) : "";
    this.node.hidden = !text;
    if (this.node.textContent !== text) this.node.textContent = text;
  }
}
