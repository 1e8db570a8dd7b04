/** Which notebook is in front, and the conversation with its kernel. One conversation per kernel, however many views. */

import { INotebookTracker, NotebookPanel } from "@jupyterlab/notebook";
import { Kernel, KernelMessage } from "@jupyterlab/services";
import { UUID } from "@lumino/coreutils";

import { Connection } from "./connection";
import { KernelLike } from "./kernel";

export const CLIENT = "0.1.0";

/** The little of a kernel connection that a conversation needs. */
function likeOf(kernel: Kernel.IKernelConnection): KernelLike {
  return {
    status: () => kernel.status,
    connected: () => kernel.connectionStatus === "connected",
    language: async () => (await kernel.info).language_info.name,
    loaded: async () => {
      // Asked without a trace in the history or the prompt numbers. A comm to an unknown target would do as well, but
      // the kernel's log would have a warning from every notebook that has nothing to do with esen_lab.
      const asked = "'esen' in get_ipython().magics_manager.magics['line']";
      const future = kernel.requestExecute(
        { code: "", silent: true, store_history: false, user_expressions: { loaded: asked } },
        true,
      );
      const reply = (await future.done) as KernelMessage.IExecuteReplyMsg;
      const found = (reply.content as any).user_expressions?.loaded;
      return found?.status === "ok" && found.data?.["text/plain"] === "True";
    },
    comm: (target) => kernel.createComm(target), // newer ones than the types here know of `subshellStarted`
    control: (comm, data) => {
      // Not one of the types that belong on this channel: esen_lab's kernel side takes it all the same.
      const options: any = { channel: "control", msgType: "comm_msg" };
      const message = KernelMessage.createMessage({
        ...options,
        session: kernel.clientId,
        username: kernel.username,
        content: { comm_id: (comm as Kernel.IComm).commId, data },
      }) as unknown as KernelMessage.IControlMessage;
      kernel.sendControlMessage(message, false, true);
    },
  };
}

interface Known {
  connection: Connection;
  kernel: Kernel.IKernelConnection;
  end: () => void;
}

/** What is in front: changes are told to listeners, whether of focus or of what the kernel said. */
export class Focus {
  private known = new Map<string, Known>();
  private watched = new Set<string>();
  private listeners = new Set<() => void>();
  private unlisten: () => void = () => undefined;
  private followed: Connection | null = null;
  private readonly page = UUID.uuid4();

  constructor(
    private tracker: INotebookTracker,
    private rateHz: number,
  ) {
    tracker.currentChanged.connect(() => this.follow());
    tracker.widgetAdded.connect((_, panel) => this.watch(panel));
    tracker.forEach((panel) => this.watch(panel));
    // A page that is closed or loaded anew says so, where the browser lets it.
    window.addEventListener("pagehide", () => this.dispose());
    this.follow();
  }

  /** The notebook in front, or the one that was last. */
  get notebook(): NotebookPanel | null {
    return this.tracker.currentWidget;
  }

  /** The conversation with its kernel; null where there is none. */
  get connection(): Connection | null {
    return this.followed;
  }

  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  setRate(rateHz: number): void {
    this.rateHz = rateHz;
    for (const { connection } of this.known.values()) connection.setRate(rateHz);
  }

  /** The conversation with a notebook's kernel, begun at the first need. */
  connectionOf(panel: NotebookPanel): Connection | null {
    const kernel = panel.sessionContext.session?.kernel;
    if (!kernel || kernel.isDisposed) return null;
    // By connection, not by kernel: a notebook that changes its kernel disposes the connection, and its comms with it.
    const key = `${kernel.id} ${kernel.clientId}`;
    let found = this.known.get(key);
    if (!found) {
      const options = { page: this.page, client: CLIENT, rateHz: this.rateHz };
      found = this.begin(key, kernel, new Connection(likeOf(kernel), options));
    }
    return found.connection;
  }

  dispose(): void {
    for (const { end } of [...this.known.values()]) end();
  }

  private begin(key: string, kernel: Kernel.IKernelConnection, connection: Connection): Known {
    const status = (_: unknown, now: string) => connection.statusChanged(now);
    const link = (_: unknown, now: string) => connection.connectionChanged(now === "connected");
    const heard = (_: unknown, message: KernelMessage.IIOPubMessage) => {
      if (message.header.msg_type === "execute_input") {
        connection.codeRan((message as KernelMessage.IExecuteInputMsg).content.code);
      }
    };
    kernel.statusChanged.connect(status);
    kernel.connectionStatusChanged.connect(link);
    kernel.iopubMessage.connect(heard);
    const end = () => {
      kernel.statusChanged.disconnect(status);
      kernel.connectionStatusChanged.disconnect(link);
      kernel.iopubMessage.disconnect(heard);
      this.known.delete(key);
      connection.dispose();
    };
    kernel.disposed.connect(() => {
      end();
      this.follow();
    });
    const made = { connection, kernel, end };
    this.known.set(key, made);
    void connection.look();
    return made;
  }

  private watch(panel: NotebookPanel): void {
    if (this.watched.has(panel.id)) return;
    this.watched.add(panel.id);
    panel.sessionContext.kernelChanged.connect(() => this.follow());
    panel.sessionContext.statusChanged.connect(() => this.follow());
    panel.disposed.connect(() => {
      this.watched.delete(panel.id);
      this.follow();
    });
  }

  private follow(): void {
    const panel = this.tracker.currentWidget;
    const connection = panel && !panel.isDisposed ? this.connectionOf(panel) : null;
    if (connection !== this.followed) {
      this.unlisten();
      this.followed = connection;
      this.unlisten = connection?.listen(() => this.tell()) ?? (() => undefined);
    }
    this.tell();
  }

  private tell(): void {
    for (const listener of [...this.listeners]) listener();
  }
}
