import { Connection, PATIENCE_MS } from "../connection";
import { CommLike, KernelLike } from "../kernel";
import { problem } from "../messages";
import schema from "../messages.json";
import { COMMANDS_TARGET, Message, PROTOCOL, STATE_TARGET } from "../protocol";

/** A comm that writes down what is sent: a test double. */
class Comm implements CommLike {
  subshellStarted?: Promise<unknown>;
  onMsg: (message: any) => any = () => undefined;
  onClose: (message: any) => any = () => undefined;
  opened: any = null;
  sent: any[] = [];
  closed = false;
  open(data: any): void {
    this.opened = data;
  }
  send(data: any): void {
    if (this.closed) throw new Error("closed");
    this.sent.push(data);
  }
  close(): void {
    this.closed = true;
  }
  /** The kernel says something. */
  says(data: Partial<Message>): void {
    this.onMsg({ content: { data } });
  }
}

/** A scripted kernel: a test double. */
class Kernel implements KernelLike {
  now = "idle";
  link = true;
  speaks = "python";
  hasIt = true;
  asked = 0;
  comms: Record<string, Comm> = {};
  status(): string {
    return this.now;
  }
  connected(): boolean {
    return this.link;
  }
  async language(): Promise<string> {
    return this.speaks;
  }
  async loaded(): Promise<boolean> {
    this.asked += 1;
    return this.hasIt;
  }
  comm(target: string): Comm {
    return (this.comms[target] = new Comm());
  }
  controlled: [Comm, any][] = [];
  control(comm: Comm, data: any): void {
    this.controlled.push([comm, data]);
  }
  get state(): Comm {
    return this.comms[STATE_TARGET];
  }
  get commands(): Comm {
    return this.comms[COMMANDS_TARGET];
  }
}

function begin(kernel = new Kernel()): {
  kernel: Kernel;
  connection: Connection;
  changes: () => number;
} {
  const connection = new Connection(kernel, { page: "p", client: "0.1.0", rateHz: 4 });
  let changes = 0;
  connection.listen(() => (changes += 1));
  return { kernel, connection, changes: () => changes };
}

/** What was promised has happened. */
const settled = () => new Promise((resolve) => setTimeout(resolve));

async function live(): Promise<ReturnType<typeof begin>> {
  const made = begin();
  await made.connection.look();
  made.kernel.state.says({ kind: "hello", seq: 0, protocol: PROTOCOL, version: "0.1.0" });
  made.kernel.state.says({ kind: "state", seq: 1, sections: { busy: { cell: false } } });
  return made;
}

test("an idle kernel that has loaded esen_lab is spoken to, commands first", async () => {
  const { kernel, connection } = begin();
  await connection.look();
  expect(connection.phase).toBe("opening");
  expect(kernel.state.opened).toEqual({
    protocol: PROTOCOL,
    client: "0.1.0",
    page: "p",
    rate_hz: 4,
  });
  expect(kernel.commands.opened).toEqual({ protocol: PROTOCOL, page: "p" });
});

test("the first state makes it live, patches replace whole sections", async () => {
  const { kernel, connection, changes } = await live();
  expect(connection.phase).toBe("live");
  const before = changes();
  kernel.state.says({ kind: "patch", seq: 2, sections: { busy: { cell: true } } });
  expect(connection.sections.busy).toEqual({ cell: true });
  expect(connection.sections.plan).toBeNull();
  expect(changes()).toBe(before + 1);
});

test("a gap asks for everything, and what comes before that is not believed", async () => {
  const { kernel, connection } = await live();
  kernel.state.says({ kind: "patch", seq: 5, sections: { busy: { cell: true } } });
  expect(kernel.commands.sent).toEqual([{ kind: "resync" }]);
  kernel.state.says({ kind: "patch", seq: 6, sections: { busy: { cell: true } } });
  expect(connection.sections.busy).toEqual({ cell: false });
  expect(kernel.commands.sent.length).toBe(1);
  kernel.state.says({ kind: "state", seq: 7, sections: { busy: { cell: true } } });
  kernel.state.says({ kind: "patch", seq: 8, sections: { jobs: [] } });
  expect(connection.sections).toMatchObject({ busy: { cell: true }, jobs: [] });
});

test("a whole state drops sections that are not in it", async () => {
  const { kernel, connection } = await live();
  kernel.state.says({ kind: "state", seq: 2, sections: { jobs: [] } });
  expect(connection.sections.busy).toBeNull();
});

test("a kernel without esen_lab is asked once, and again after a cell that speaks of it", async () => {
  const { kernel, connection } = begin();
  kernel.hasIt = false;
  await connection.look();
  expect(connection.phase).toBe("absent");
  connection.statusChanged("busy");
  connection.statusChanged("idle");
  await Promise.resolve();
  expect(kernel.asked).toBe(1);
  connection.codeRan("x = 1");
  connection.statusChanged("idle");
  expect(kernel.asked).toBe(1);
  kernel.hasIt = true;
  connection.codeRan("%load_ext esen_lab");
  connection.statusChanged("idle");
  await settled();
  expect(kernel.asked).toBe(2);
  expect(connection.phase).toBe("opening");
});

test("its own question, which makes the kernel busy and idle, is no reason to ask again", async () => {
  const { kernel, connection } = begin();
  kernel.loaded = async () => {
    kernel.asked += 1;
    connection.statusChanged("busy");
    connection.statusChanged("idle");
    return true;
  };
  await connection.look();
  expect(kernel.asked).toBe(1);
  expect(connection.phase).toBe("opening");
});

test("a busy kernel is waited for, not asked", async () => {
  const { kernel, connection } = begin();
  kernel.now = "busy";
  await connection.look();
  expect(connection.phase).toBe("waiting");
  expect(kernel.asked).toBe(0);
  kernel.now = "idle";
  connection.statusChanged("idle");
  await settled();
  expect(connection.phase).toBe("opening");
});

test("when cells follow the one that loads it, it is spoken to as soon as the next begins", async () => {
  const { kernel, connection } = begin();
  kernel.hasIt = false;
  await connection.look();
  kernel.now = "busy";
  connection.statusChanged("busy");
  connection.codeRan("import torch\n%load_ext esen_lab\nx = 1");
  expect(connection.isOpen()).toBe(false);
  connection.codeRan("%esen register net --example x");
  expect(connection.phase).toBe("opening");
  expect(connection.text).toContain("A cell is running");
  expect(kernel.asked).toBe(1);
  await settled();
  expect(kernel.state.opened).toMatchObject({ page: "p" });
  kernel.state.says({ kind: "hello", seq: 0, protocol: PROTOCOL });
  kernel.state.says({ kind: "state", seq: 1, sections: {} });
  expect(connection.phase).toBe("live");
  expect(connection.text).toBe("");
});

test("comms that are opened while cells run wait for a way of their own, but not for ever", async () => {
  jest.useFakeTimers();
  try {
    for (const starts of [true, false]) {
      const { kernel, connection } = begin();
      kernel.now = "busy";
      await connection.look();
      let start: (value: unknown) => void = () => undefined;
      const started = new Promise((resolve) => (start = resolve));
      const comm = kernel.comm.bind(kernel);
      kernel.comm = (target) => Object.assign(comm(target), { subshellStarted: started });
      connection.codeRan("%load_ext esen_lab");
      connection.codeRan("x = 1");
      await jest.advanceTimersByTimeAsync(PATIENCE_MS / 2);
      expect(kernel.state.opened).toBeNull();
      if (starts) start(null);
      await jest.advanceTimersByTimeAsync(starts ? 0 : PATIENCE_MS);
      expect(kernel.commands.opened).toMatchObject({ page: "p" });
      expect(kernel.state.opened).toMatchObject({ page: "p" });
      connection.dispose();
    }
  } finally {
    jest.useRealTimers();
  }
});

test("a kernel that hears it only when its cells are done is waited for", async () => {
  jest.useFakeTimers();
  try {
    const { kernel, connection } = begin();
    kernel.now = "busy";
    await connection.look();
    connection.codeRan("%load_ext esen_lab");
    connection.codeRan("import time");
    const state = kernel.state;
    jest.advanceTimersByTime(60 * PATIENCE_MS);
    expect(kernel.state).toBe(state);
    expect(state.closed).toBe(false);
    state.says({ kind: "hello", seq: 0, protocol: PROTOCOL });
    state.says({ kind: "state", seq: 1, sections: {} });
    expect(connection.phase).toBe("live");
  } finally {
    jest.useRealTimers();
  }
});

test("a cell that loaded it once is not remembered when it is loaded again later", async () => {
  for (const first of [true, false]) {
    const { kernel, connection } = begin();
    kernel.now = "busy";
    await connection.look();
    connection.codeRan("%load_ext esen_lab");
    kernel.now = "idle";
    kernel.hasIt = first;
    connection.statusChanged("idle");
    await settled();
    if (first) kernel.state.says({ kind: "bye", seq: 0, text: "unloaded" });
    expect(connection.phase).toBe("absent");
    kernel.now = "busy";
    connection.codeRan("%load_ext esen_lab");
    expect(connection.isOpen()).toBe(false);
    expect(connection.phase).toBe("looking");
  }
});

test("a load that failed is absent, and says nothing of cells", async () => {
  const { kernel, connection } = begin();
  kernel.now = "busy";
  await connection.look();
  connection.codeRan("%load_ext esen_lab");
  connection.codeRan("x = 1");
  kernel.state.onClose({});
  expect(connection.phase).toBe("absent");
  expect(connection.text).toBe("");
});

test("an opening that an idle kernel never answers leaves nothing said of cells", async () => {
  jest.useFakeTimers();
  try {
    const { kernel, connection } = begin();
    kernel.now = "busy";
    await connection.look();
    connection.codeRan("%load_ext esen_lab");
    connection.codeRan("%unload_ext esen_lab");
    expect(connection.text).toContain("A cell is running");
    kernel.now = "idle";
    kernel.hasIt = false;
    await jest.advanceTimersByTimeAsync(4 * PATIENCE_MS);
    expect(connection.phase).toBe("absent");
    expect(connection.text).toBe("");
  } finally {
    jest.useRealTimers();
  }
});

test("a cell that loads it and ends is asked after, as ever", async () => {
  const { kernel, connection } = begin();
  kernel.now = "busy";
  await connection.look();
  connection.codeRan("%load_ext esen_lab");
  kernel.now = "idle";
  connection.statusChanged("idle");
  await settled();
  expect(kernel.asked).toBe(1);
  expect(connection.phase).toBe("opening");
});

test("a kernel of another language is left alone", async () => {
  const { kernel, connection } = begin();
  kernel.speaks = "R";
  await connection.look();
  expect(connection.phase).toBe("foreign");
  expect(kernel.asked).toBe(0);
});

test.each([
  { kind: "hello", seq: 0, protocol: 99, version: "9" },
  { kind: "mismatch", seq: 0, protocol: 99, version: "9", text: "Install the same version." },
])("another protocol is said, not guessed: %j", async (message) => {
  const { kernel, connection } = begin();
  await connection.look();
  const comm = kernel.state;
  comm.says(message);
  comm.says({ kind: "state", seq: 1, sections: { jobs: [] } });
  comm.onClose({});
  expect(connection.phase).toBe("mismatch");
  expect(connection.text).toContain("same version");
  expect(connection.sections.jobs).toBeNull();
});

test("a restart forgets what was, says so, and attaches again", async () => {
  const { kernel, connection } = await live();
  kernel.hasIt = false;
  connection.statusChanged("restarting");
  expect(connection.sections.busy).toBeNull();
  connection.statusChanged("idle");
  await settled();
  expect(connection.phase).toBe("absent");
  expect(connection.restarted).toBe(true);
  kernel.hasIt = true;
  connection.codeRan("%load_ext esen_lab");
  connection.statusChanged("idle");
  await settled();
  kernel.state.says({ kind: "hello", seq: 0, protocol: PROTOCOL });
  kernel.state.says({ kind: "state", seq: 1, sections: {} });
  expect(connection.phase).toBe("live");
  expect(connection.restarted).toBe(false);
});

test("messages of comms that were dropped are not heard", async () => {
  const { kernel, connection } = await live();
  const old = kernel.state;
  connection.statusChanged("restarting");
  old.says({ kind: "patch", seq: 2, sections: { busy: { cell: true } } });
  old.onClose({});
  expect(connection.sections.busy).toBeNull();
  expect(connection.phase).toBe("looking");
});

test("a lost connection is said and resynchronised when it is back", async () => {
  const { kernel, connection } = await live();
  connection.connectionChanged(false);
  expect(connection.phase).toBe("lost");
  connection.connectionChanged(true);
  expect(connection.phase).toBe("live");
  expect(kernel.commands.sent).toEqual([{ kind: "resync" }]);
});

test("unloading is said, and the end of a kernel too", async () => {
  const { kernel, connection } = await live();
  kernel.state.says({ kind: "bye", seq: 2, text: "esen_lab was unloaded." });
  expect([connection.phase, connection.text]).toEqual(["absent", "esen_lab was unloaded."]);
  connection.statusChanged("dead");
  expect(connection.phase).toBe("dead");
});

describe("what an idle kernel does not answer is asked anew:", () => {
  beforeEach(() => jest.useFakeTimers());
  afterEach(() => jest.useRealTimers());
  const never = () => new Promise<boolean>(() => undefined);
  const pass = () => jest.advanceTimersByTimeAsync(2 * PATIENCE_MS);

  test("a question that got lost while the kernel restarted", async () => {
    const { kernel, connection } = begin();
    kernel.loaded = never;
    void connection.look();
    await jest.advanceTimersByTimeAsync(0);
    kernel.loaded = async () => true;
    await pass();
    expect(connection.phase).toBe("opening");
  });

  test("comms that were opened to a kernel that ended", async () => {
    const { kernel, connection } = begin();
    await connection.look();
    const lost = kernel.state;
    await pass();
    expect(lost.closed).toBe(true);
    expect(kernel.state).not.toBe(lost);
    kernel.state.says({ kind: "hello", seq: 0, protocol: PROTOCOL });
    kernel.state.says({ kind: "state", seq: 1, sections: {} });
    await pass();
    expect(connection.phase).toBe("live");
    expect(jest.getTimerCount()).toBe(0);
  });

  test("a kernel that was restarted while the page had no connection", async () => {
    const { kernel, connection } = begin();
    await connection.look();
    kernel.state.says({ kind: "hello", seq: 0, protocol: PROTOCOL });
    kernel.state.says({ kind: "state", seq: 1, sections: { busy: { cell: true } } });
    connection.connectionChanged(false);
    kernel.hasIt = false;
    connection.connectionChanged(true);
    await pass();
    expect(connection.phase).toBe("absent");
    expect(connection.sections.busy).toBeNull();
  });

  test("but a kernel that works is given its time", async () => {
    const { kernel, connection } = begin();
    await connection.look();
    const first = kernel.state;
    kernel.now = "busy";
    connection.statusChanged("busy");
    await jest.advanceTimersByTimeAsync(60 * PATIENCE_MS);
    expect(kernel.state).toBe(first);
    connection.dispose();
    expect(jest.getTimerCount()).toBe(0);
  });
});

test("an answer to what was asked before a cell loaded esen_lab is not believed", async () => {
  const { kernel, connection } = begin();
  let answer: (has: boolean) => void = () => undefined;
  kernel.loaded = () => new Promise((resolve) => (answer = resolve));
  const looking = connection.look();
  await settled();
  connection.codeRan("%load_ext esen_lab");
  answer(false);
  await looking;
  expect(connection.phase).toBe("looking");
  kernel.loaded = async () => true;
  connection.statusChanged("idle");
  await settled();
  expect(connection.phase).toBe("opening");
});

test("stop, rate and goodbye are commands", async () => {
  const { kernel, connection } = await live();
  connection.stop("profile");
  connection.stop();
  connection.setRate(100);
  connection.setRate(100);
  connection.dispose();
  expect(kernel.commands.sent).toEqual([
    { kind: "stop", job: "profile" },
    { kind: "stop" },
    { kind: "rate", rate_hz: 10 },
    { kind: "bye" },
  ]);
  expect(kernel.state.closed).toBe(true);
  await connection.look();
  expect(kernel.asked).toBe(1);
});

test("commands take the control channel where the kernel says so, and until it says so not", async () => {
  const { kernel, connection } = begin();
  await settled();
  await connection.look();
  connection.stop();
  kernel.state.says({ kind: "hello", protocol: PROTOCOL, version: "0.1.0", control: true, seq: 0 });
  kernel.state.says({ kind: "state", sections: {}, seq: 1 });
  connection.stop("profile");
  expect(kernel.commands.sent).toEqual([{ kind: "stop" }]);
  expect(kernel.controlled).toEqual([[kernel.commands, { kind: "stop", job: "profile" }]]);
});

test("the monitor is turned off by its last listener and asked for again after a reconnection", async () => {
  const { kernel, connection } = await live();
  const heard: Message[] = [];
  const end = connection.monitor((message) => heard.push(message), { have: [] });
  kernel.state.says({ kind: "monitor", seq: 2, what: "none", text: "no" });
  expect(heard.map((message) => message.text)).toEqual(["no"]);
  expect(kernel.commands.sent).toEqual([{ kind: "monitor", on: true, have: [] }]);
  end();
  expect(kernel.commands.sent[1]).toEqual({ kind: "monitor", on: false });
});

test("what is no message is ignored", async () => {
  const { kernel, connection } = await live();
  for (const odd of [null, 3, {}, { kind: "state" }, { kind: 1, seq: 2 }])
    kernel.state.says(odd as any);
  kernel.state.says({ kind: "a kind of the future", seq: 2 });
  kernel.state.says({ kind: "patch", seq: 3, sections: { jobs: [] } });
  expect(connection.sections.jobs).toEqual([]);
});

describe("what is not as the schema has it", () => {
  test("a section that is wrong is not drawn, the others are, and it is said", async () => {
    const { kernel, connection } = await live();
    kernel.state.says({
      kind: "patch",
      seq: 2,
      sections: { jobs: [], plan: { lanes: 5 }, actions: null } as any,
    });
    expect(connection.sections).toMatchObject({ jobs: [], plan: null, busy: { cell: false } });
    expect(connection.text).toContain("plan.searcher: missing");
    expect(connection.level).toBe("error");
    kernel.state.says({ kind: "state", seq: 3, sections: { busy: { cell: true } } });
    expect(connection.text).toBe("");
  });

  test.each([
    { kind: "patch" },
    { kind: "patch", sections: 5 },
    { kind: "patch", sections: [] },
    { kind: "state", sections: null },
    { kind: "said", text: { toString: 1 }, level: "info" },
    { kind: "said", text: "x".repeat(30000), level: "info" },
    { kind: "said", text: "x", level: "fatal" },
    { kind: "hello", protocol: "1" },
    { kind: "bye", text: 5 },
    { kind: "monitor", what: 5 },
    { kind: "monitor", what: "rows", rows: { t: "x" } },
    { kind: "monitor", what: "doc", bokeh: "3.9", doc: null },
  ])("%j changes nothing but what is said, and the next message counts", async (odd) => {
    const { kernel, connection } = await live();
    const heard: Message[] = [];
    connection.monitor((message) => heard.push(message), {});
    kernel.state.says({ ...odd, seq: 2 } as any);
    expect(connection.phase).toBe("live");
    expect(connection.sections.busy).toEqual({ cell: false });
    expect(connection.text).toContain("does not understand");
    expect(heard).toEqual([]);
    kernel.state.says({ kind: "patch", seq: 3, sections: { busy: { cell: true } } });
    expect(connection.sections.busy).toEqual({ cell: true });
  });

  test.each([NaN, Infinity, -1, 1.5, 2 ** 60, "2", null])(
    "a number %p is no place in the row",
    async (seq) => {
      const { kernel, connection } = await live();
      kernel.state.says({ kind: "patch", seq, sections: { busy: { cell: true } } } as any);
      expect(connection.sections.busy).toEqual({ cell: false });
      kernel.state.says({ kind: "patch", seq: 2, sections: { busy: { cell: true } } });
      expect(connection.sections.busy).toEqual({ cell: true });
    },
  );

  test("kinds, sections and keys of the future are ignored, those of every object too", async () => {
    const { kernel, connection } = await live();
    kernel.state.says({ kind: "constructor", seq: 2, what: "toString" });
    kernel.state.says({ kind: "monitor", seq: 3, what: "hasOwnProperty" });
    const sections = { busy: { cell: true, more: 1 }, weather: "fine", constructor: 1 } as any;
    kernel.state.says({ kind: "patch", seq: 4, sections });
    expect(connection.sections.busy).toMatchObject({ cell: true });
    expect(connection.sections).not.toHaveProperty("weather");
    expect(connection.text).toBe("");
  });

  test("a listener that fails does not keep the others from hearing", async () => {
    const quiet = jest.spyOn(console, "error").mockImplementation(() => undefined);
    const { kernel, connection, changes } = await live();
    connection.listen(() => {
      throw new Error("cannot draw");
    });
    let later = 0;
    connection.listen(() => (later += 1));
    const before = changes();
    kernel.state.says({ kind: "patch", seq: 2, sections: { busy: { cell: true } } });
    expect([changes() - before, later, quiet.mock.calls.length]).toEqual([1, 1, 1]);
    quiet.mockRestore();
  });

  test("what a page sends is what the kernel's schema takes", async () => {
    const { kernel, connection } = await live();
    connection.stop();
    connection.stop("profile");
    connection.setRate(100);
    connection.monitor(() => undefined, { have: ["3.9"], interval_s: 0.5, history_s: 1800 })();
    connection.connectionChanged(true);
    const { commands, state } = kernel;
    connection.dispose();
    expect(commands.sent.map((sent) => sent.kind)).toEqual(
      "stop stop rate monitor monitor resync bye".split(" "),
    );
    for (const sent of commands.sent) {
      expect(problem(sent, (schema.to_kernel as any)[sent.kind])).toBe("");
    }
    expect(problem(state.opened, schema.openings.state as any)).toBe("");
    expect(problem(commands.opened, schema.openings.commands as any)).toBe("");
  });
});
