/**
 * One page's conversation with one kernel: two comms that the page opens, numbered messages, and what they add up to.
 *
 * Nothing here touches the DOM or JupyterLab's widgets; `KernelLike` is the little of a kernel connection that is used.
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

import {
  asMessage,
  COMMANDS_TARGET,
  Level,
  Message,
  NOTHING,
  PROTOCOL,
  Sections,
  STATE_TARGET,
} from "./protocol";

export type Phase =
  "looking" | "waiting" | "absent" | "opening" | "live" | "mismatch" | "foreign" | "lost" | "dead";

export interface CommLike {
  onMsg: (message: any) => any;
  onClose: (message: any) => any;
  open(data?: any): unknown;
  send(data: any): unknown;
  close(): unknown;
  /** Resolves when the kernel reads this comm also while a cell runs; never, or missing, where it cannot. */
  readonly subshellStarted?: Promise<unknown>;
}

export interface KernelLike {
  /** "idle", "busy", "restarting", "dead", ... */
  status(): string;
  /** Whether the page has a connection to it at present. */
  connected(): boolean;
  /** The kernel's language, as its specification has it. */
  language(): Promise<string>;
  /** Whether the magic `%esen` is there; asked only while the kernel is idle. */
  loaded(): Promise<boolean>;
  comm(target: string): CommLike;
  /** Send to the kernel's side of a comm on the control channel, which is read while a cell is busy. */
  control(comm: CommLike, data: any): void;
}

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
const LEAST_RATE_HZ = 0.5;
const MOST_RATE_HZ = 10;

export class Connection {
  phase: Phase = "looking";
  /** What the last message of the kind "said", "mismatch" or "bye" tells people, or "". */
  text = "";
  level: Level = "info";
  sections: Sections = { ...NOTHING };
  version = "";
  /** True after the kernel was restarted and until it is live again. */
  restarted = false;
  /** When the last whole or partial state came (`Date.now`); 0 before the first one. */
  heard = 0;

  private listeners = new Set<() => void>();
  private monitors = new Set<MonitorListener>();
  private state: CommLike | null = null;
  private commands: CommLike | null = null;
  private byControl = false;
  private seq = -1;
  private resyncing = false;
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
      this.text = BUSY;
      this.level = "info";
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
      this.become(this.heard ? "live" : "opening");
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
    const rate_hz = Math.min(MOST_RATE_HZ, Math.max(LEAST_RATE_HZ, rateHz));
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
    const opening = this.isOpen() && (this.phase === "opening" || this.resyncing);
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
    this.seq = -1;
    this.heard = 0;
    this.loading = false;
    this.resyncing = false;
    this.byControl = false;
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
    if (this.phase === "mismatch") return;
    if (this.text === BUSY) this.text = "";
    this.become("absent");
  }

  private drop(): void {
    const comms = [this.state, this.commands];
    this.state = this.commands = null;
    this.sections = { ...NOTHING };
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
      if (this.commands && this.byControl) this.kernel.control(this.commands, content);
      else this.commands?.send(content);
    } catch {
      // the connection is being lost: its own signal tells
    }
  }

  private resync(): void {
    this.resyncing = true;
    this.keepVigil();
    this.send({ kind: "resync" });
  }

  private take(message: Message | null): void {
    if (message === null) return;
    const gap = message.seq !== this.seq + 1 && message.seq !== 0;
    this.seq = message.seq;
    switch (message.kind) {
      case "hello":
        this.version = message.version ?? "";
        this.byControl = message.control === true;
        if (message.protocol !== PROTOCOL) return this.mismatch(message);
        break;
      case "mismatch":
        return this.mismatch(message);
      case "state":
        this.sections = { ...NOTHING, ...message.sections };
        this.resyncing = false;
        this.restarted = false;
        this.text = "";
        this.heard = Date.now();
        if (this.phase !== "live" && this.monitorWanted) {
          this.send({ kind: "monitor", on: true, ...this.monitorWanted });
        }
        return this.become("live", true);
      case "patch":
        if (!gap && !this.resyncing) {
          this.sections = { ...this.sections, ...message.sections };
          this.heard = Date.now();
          this.tell();
        }
        break;
      case "monitor":
        for (const listener of this.monitors) listener(message);
        break;
      case "said":
        this.text = message.text ?? "";
        this.level = message.level ?? "info";
        this.tell();
        break;
      case "bye":
        this.text = message.text ?? "";
        this.drop();
        return this.become("absent");
    }
    if (gap && !this.resyncing) this.resync();
  }

  private mismatch(message: Message): void {
    const other = message.protocol ?? "another";
    this.text =
      message.text ??
      `This page speaks protocol ${PROTOCOL}, the kernel's esen_lab ${message.version ?? ""} speaks ${other}. ` +
        "Install the same version of esen_lab where JupyterLab runs and where the kernel runs, then reload.";
    this.phase = "mismatch";
    this.drop();
    this.become("mismatch", true);
  }

  private become(phase: Phase, anyway = false): void {
    if (this.phase === phase && !anyway) return;
    this.phase = phase;
    if (phase === "looking" || phase === "opening") this.keepVigil();
    this.tell();
  }

  private tell(): void {
    for (const listener of [...this.listeners]) listener();
  }
}
