/**
 * One page's connection with one kernel: two comms that the page opens, how they come and go, and what is sent on them.
 * What the kernel's messages add up to is in `replica.ts`.
 *
 * Nothing here touches the DOM or JupyterLab's widgets.
 *
 *   looking ──► absent        the kernel is idle and has not loaded esen_lab
 *      │   └──► waiting       a cell runs: a question that is asked now would be answered only after it
 *      └──────► opening ──► live ──► absent (unloaded) | looking (restarted) | lost (connection)
 *                   └──► mismatch
 *
 * When cells run one after another (Run All), the kernel is not idle for long after it has loaded esen_lab. So the comms
 * are opened, unasked, as soon as the cell after that one begins. Kernels with subshells hear that at once.
 *
 * What is on its way while a kernel restarts may get lost, or be answered by the kernel that ends: a question or an
 * opening that an idle kernel does not answer is given up and begun anew.
 */

import { CommLike, KernelLike } from "./kernel";
import {
  asMessage,
  COMMANDS_TARGET,
  Level,
  Message,
  PROTOCOL,
  RATE_HZ,
  Sections,
  STATE_TARGET,
} from "./protocol";
import { Replica } from "./replica";

export type Phase =
  "looking" | "waiting" | "absent" | "opening" | "live" | "mismatch" | "foreign" | "lost" | "dead";

export interface Options {
  page: string;
  client: string;
  rateHz: number;
}

/** Who listens to the monitor's messages. */
export type MonitorListener = (message: Message) => void;

/** How long an idle kernel may leave a question unanswered; after twice as long at most it is asked anew. */
export const PATIENCE_MS = 2000;
const LOADS = /^\s*%(load|reload)_ext\s+esen_lab\b/m;
const BUSY =
  "A cell is running. The panel attaches at once where the kernel can hear it, else when the cells are done.";

export class Connection {
  phase: Phase = "looking";
  /** True after the kernel was restarted and until it is live again. */
  restarted = false;

  private replica = new Replica();
  private listeners = new Set<() => void>();
  private monitors = new Set<MonitorListener>();
  private state: CommLike | null = null;
  private commands: CommLike | null = null;
  private asking = false;
  /** Grows when what was asked counts no more: its answer is not believed. */
  private question = 0;
  /** Whether the kernel's status has changed since the vigil looked last. */
  private stirred = false;
  /** Whether a cell that loads esen_lab has begun; the next one shows that it has ended. */
  private loading = false;
  private vigil: ReturnType<typeof setInterval> | null = null;
  private disposed = false;
  private monitorWanted: Record<string, unknown> | null = null;

  constructor(
    readonly kernel: KernelLike,
    private options: Options,
  ) {}

  get sections(): Sections {
    return this.replica.sections;
  }

  /** What people are to read beside the sections, or "". */
  get text(): string {
    return this.replica.text;
  }

  get level(): Level {
    return this.replica.level;
  }

  /** Call `listener` at every change; returns what ends that. */
  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Look whether esen_lab is loaded, and open the comms when it is. Harmless at any time. */
  async look(): Promise<void> {
    // Asking makes the kernel busy and idle again itself: one question at a time.
    if (this.disposed || this.asking || this.isOpen()) return;
    const status = this.kernel.status();
    if (status === "dead") return this.become("dead");
    if (!this.kernel.connected()) return this.become(this.phase === "looking" ? "looking" : "lost");
    this.asking = true;
    const question = this.question;
    const outdated = () => question !== this.question || this.disposed || this.isOpen();
    this.keepVigil();
    try {
      const language = await this.kernel.language();
      if (outdated()) return;
      if (language.toLowerCase() !== "python") return this.become("foreign");
      const now = this.kernel.status();
      if (now !== "idle") {
        // A mismatch, or that it is not loaded, stays true while a cell runs.
        if (this.phase === "absent" || this.phase === "mismatch") return;
        return this.become(now === "busy" ? "waiting" : "looking");
      }
      const loaded = await this.kernel.loaded();
      if (outdated()) return;
      this.loading = false;
      if (loaded) this.open();
      else this.become("absent");
    } catch {
      // The kernel went away meanwhile: its status says so soon.
    } finally {
      if (question === this.question) this.asking = false;
    }
  }

  /** The kernel's status changed. */
  statusChanged(status: string): void {
    this.stirred = true;
    if (status === "restarting" || status === "autorestarting") {
      this.drop();
      this.forget();
      this.loading = false;
      this.restarted = true;
      this.become("looking");
    } else if (status === "dead" || status === "terminating") {
      this.drop();
      this.become("dead");
    } else if (status === "idle" && (this.phase === "looking" || this.phase === "waiting")) {
      void this.look();
    } else if (status === "idle" && this.phase === "dead") {
      this.become("looking");
      void this.look();
    }
  }

  /** A cell with this source was begun somewhere: does it have to do with loading or unloading? */
  codeRan(code: string): void {
    if (this.isOpen() || this.disposed) return;
    const loaded = this.loading;
    this.loading = LOADS.test(code);
    if (loaded && this.kernel.status() === "busy" && this.kernel.connected()) {
      this.forget();
      this.replica.say(BUSY, "info");
      this.open(true);
    } else if (/\besen/.test(code)) {
      // Looked at again when the kernel is idle: `statusChanged` does it. What was asked before the cell says nothing.
      this.forget();
      this.become("looking");
    }
  }

  connectionChanged(connected: boolean): void {
    if (!connected) {
      if (this.isOpen()) this.become("lost");
      return;
    }
    if (this.isOpen()) {
      this.become(this.replica.heard ? "live" : "opening");
      this.resync();
    } else {
      void this.look();
    }
  }

  /** Cancel one job, or all that run. */
  stop(job?: string): void {
    this.send(job === undefined ? { kind: "stop" } : { kind: "stop", job });
  }

  setRate(rateHz: number): void {
    const rate_hz = Math.min(RATE_HZ.maximum, Math.max(RATE_HZ.minimum, rateHz));
    if (rate_hz === this.options.rateHz) return;
    this.options = { ...this.options, rateHz: rate_hz };
    this.send({ kind: "rate", rate_hz });
  }

  /** Ask for the monitor's messages; returns what ends that. The last one to end it turns the monitor off. */
  monitor(listener: MonitorListener, wanted: Record<string, unknown>): () => void {
    this.monitors.add(listener);
    this.monitorWanted = wanted;
    this.send({ kind: "monitor", on: true, ...wanted });
    return () => {
      this.monitors.delete(listener);
      if (this.monitors.size === 0) {
        this.monitorWanted = null;
        this.send({ kind: "monitor", on: false });
      }
    };
  }

  /** Ask for the monitor's document anew. */
  resyncMonitor(): void {
    if (this.monitorWanted) this.send({ kind: "monitor", on: true, ...this.monitorWanted });
  }

  /** Say goodbye and let go of the comms. */
  dispose(): void {
    if (this.disposed) return;
    this.send({ kind: "bye" });
    this.disposed = true;
    if (this.vigil !== null) clearInterval(this.vigil);
    this.drop();
    this.listeners.clear();
    this.monitors.clear();
  }

  isOpen(): boolean {
    return this.state !== null;
  }

  // --- questions without an answer -----------------------------------------------------------------------------

  private forget(): void {
    this.question += 1;
    this.asking = false;
  }

  private keepVigil(): void {
    if (this.vigil !== null || this.disposed) return;
    this.stirred = true;
    this.vigil = setInterval(() => this.lookAfter(), PATIENCE_MS);
  }

  private lookAfter(): void {
    const opening = this.isOpen() && (this.phase === "opening" || this.replica.resyncing);
    if (!opening && !this.asking && this.phase !== "looking") {
      if (this.vigil !== null) clearInterval(this.vigil);
      this.vigil = null;
    } else if (this.stirred || this.kernel.status() !== "idle" || !this.kernel.connected()) {
      this.stirred = false; // it does something, or cannot hear
    } else {
      this.forget();
      if (opening) {
        this.drop();
        this.become("looking");
      }
      void this.look();
    }
  }

  // --- the comms -----------------------------------------------------------------------------------------------

  private open(whileBusy = false): void {
    const { page, client, rateHz } = this.options;
    this.replica.begin();
    this.loading = false;
    const state = (this.state = this.kernel.comm(STATE_TARGET));
    const commands = (this.commands = this.kernel.comm(COMMANDS_TARGET));
    state.onMsg = (message) => {
      if (this.state === state) this.take(asMessage(message?.content?.data));
    };
    state.onClose = () => {
      if (this.state === state) this.closed();
    };
    commands.onClose = () => {
      if (this.commands === commands) this.commands = null;
    };
    this.become("opening");
    const send = () => {
      if (this.state !== state || this.disposed) return;
      // The commands first: when the state comes, they can be answered at once.
      commands.open({ protocol: PROTOCOL, page });
      state.open({ protocol: PROTOCOL, client, page, rate_hz: rateHz });
    };
    if (!whileBusy) return send();
    // Sent before it has a way of its own, it would wait behind all cells; after that time it may as well.
    const own = Promise.all([commands.subshellStarted, state.subshellStarted]);
    const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE_MS));
    void Promise.race([own, patience]).then(send);
  }

  private closed(): void {
    this.drop();
    if (this.phase !== "mismatch") this.become("absent");
  }

  private drop(): void {
    const comms = [this.state, this.commands];
    this.state = this.commands = null;
    this.replica.forget();
    for (const comm of comms) {
      try {
        comm?.close();
      } catch {
        // its kernel is gone already
      }
    }
  }

  private send(content: Record<string, unknown>): void {
    try {
      if (this.commands && this.replica.byControl) this.kernel.control(this.commands, content);
      else this.commands?.send(content);
    } catch {
      // the connection is being lost: its own signal tells
    }
  }

  private resync(): void {
    this.replica.resyncing = true;
    this.keepVigil();
    this.send({ kind: "resync" });
  }

  private take(message: Message | null): void {
    if (message === null) return;
    const { meaning, gap } = this.replica.take(message);
    switch (meaning) {
      case "whole":
        this.restarted = false;
        if (this.phase !== "live") this.resyncMonitor();
        return this.become("live", true);
      case "mismatch":
        this.phase = "mismatch"; // before the comms close: that would be an absence
        this.drop();
        return this.become("mismatch", true);
      case "bye":
        this.drop();
        return this.become("absent");
      case "monitor":
        for (const listener of [...this.monitors]) safely(() => listener(message));
        break;
      case "changed":
        this.tell();
        break;
    }
    if (gap) this.resync();
  }

  private become(phase: Phase, anyway = false): void {
    if (this.phase === phase && !anyway) return;
    this.phase = phase;
    if (phase !== "opening" && this.text === BUSY) this.replica.say("", "info"); // it says how an opening stands
    if (phase === "looking" || phase === "opening") this.keepVigil();
    this.tell();
  }

  private tell(): void {
    for (const listener of [...this.listeners]) safely(listener);
  }
}

/** One listener's failure is not the others', nor the conversation's. */
function safely(act: () => void): void {
  try {
    act();
  } catch (failure) {
    console.error("esen_lab:", failure);
  }
}
