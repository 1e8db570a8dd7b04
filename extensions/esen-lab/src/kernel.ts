/** The little of a kernel connection that the panel uses. */

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
