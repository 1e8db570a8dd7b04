/**
 * What one kernel has said, added up: a replica of the panel's state, made from numbered messages.
 *
 * It knows no comm. `take` says what a message means; what is to be done about it is the connection's business.
 */

import { problemOf, sifted } from "./messages";
import { Level, Message, NOTHING, PROTOCOL, Sections } from "./protocol";

/**
 * What a message meant: nothing to show, something to show, the whole state, a sample for the plots, another protocol,
 * or goodbye.
 */
export type Meaning = "nothing" | "changed" | "whole" | "monitor" | "mismatch" | "bye";

export class Replica {
  sections: Sections = { ...NOTHING };
  /** What people are to read beside the sections, or "". */
  text = "";
  level: Level = "info";
  /** When the last whole or partial state came (`Date.now`); 0 before the first one. */
  heard = 0;
  /** Whether the kernel reads commands on the control channel only while a cell is busy. */
  byControl = false;
  /** Whether everything was asked for: until it comes, patches are not believed. */
  resyncing = false;
  private seq = -1;

  /** A new conversation begins. */
  begin(): void {
    this.seq = -1;
    this.heard = 0;
    this.byControl = false;
    this.resyncing = false;
  }

  /** Nothing of what was shown is known any more; what was said to people stays. */
  forget(): void {
    this.sections = { ...NOTHING };
  }

  say(text: string, level: Level): void {
    this.text = text;
    this.level = level;
  }

  /** Take in a message. `gap`: messages before it are missing, so everything is to be asked for. */
  take(message: Message): { meaning: Meaning; gap: boolean } {
    const missing = message.seq !== this.seq + 1 && message.seq !== 0;
    this.seq = message.seq;
    const meaning = this.understand(message, missing);
    return { meaning, gap: missing && !this.resyncing && meaning !== "whole" };
  }

  private understand(message: Message, missing: boolean): Meaning {
    const wrong = problemOf(message);
    if (wrong) {
      this.notUnderstood(`${message.kind}: ${wrong}`);
      return "changed";
    }
    switch (message.kind) {
      case "hello":
        this.byControl = message.control === true;
        return message.protocol === PROTOCOL ? "nothing" : this.mismatch(message);
      case "mismatch":
        return this.mismatch(message);
      case "state":
        this.text = "";
        this.sections = { ...NOTHING, ...this.understood(message) };
        this.resyncing = false;
        this.heard = Date.now();
        return "whole";
      case "patch":
        if (missing || this.resyncing) return "nothing";
        this.sections = { ...this.sections, ...this.understood(message) };
        this.heard = Date.now();
        return "changed";
      case "monitor":
        return "monitor";
      case "said":
        this.say(message.text ?? "", message.level ?? "info");
        return "changed";
      case "bye":
        this.text = message.text ?? "";
        return "bye";
      default:
        return "nothing";
    }
  }

  private understood(message: Message): Partial<Sections> {
    const { sections, wrong } = sifted(message.sections ?? {});
    if (wrong) this.notUnderstood(wrong);
    return sections;
  }

  private notUnderstood(wrong: string): void {
    this.say(
      `The kernel sent something that this page does not understand (${wrong}). Reload the page.`,
      "error",
    );
  }

  private mismatch(message: Message): "mismatch" {
    const other = message.protocol ?? "another";
    this.text =
      message.text ??
      `This page speaks protocol ${PROTOCOL}, the kernel's esen_lab ${message.version ?? ""} speaks ${other}. ` +
        "Install the same version of esen_lab where JupyterLab runs and where the kernel runs, then reload.";
    return "mismatch";
  }
}
