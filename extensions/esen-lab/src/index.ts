/** The plugin: what is added to JupyterLab or Notebook 7, and where. */

import {
  ILabShell,
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin,
} from "@jupyterlab/application";
import { ICommandPalette, MainAreaWidget, WidgetTracker } from "@jupyterlab/apputils";
import { ILauncher } from "@jupyterlab/launcher";
import { INotebookTracker } from "@jupyterlab/notebook";
import { ISettingRegistry } from "@jupyterlab/settingregistry";
import { IStatusBar } from "@jupyterlab/statusbar";
import { LabIcon } from "@jupyterlab/ui-components";
import type { Widget } from "@lumino/widgets";

import { insertCell } from "./cells";
import { makeUnlessThere } from "./files";
import { Focus } from "./focus";
import { Monitor } from "./monitor";
import { Panel } from "./panel";
import quickstart from "./quickstart.json";
import { StatusItem } from "./status";

const ID = "esen-lab:plugin";
const QUICKSTART = "esen_quickstart.ipynb";

const COMMANDS = {
  panel: "esen-lab:open-panel",
  toggle: "esen-lab:toggle-panel",
  monitor: "esen-lab:open-monitor",
  quickstart: "esen-lab:open-quickstart",
  load: "esen-lab:load",
  stop: "esen-lab:stop",
};

// Lanes: one after another beside one, as wide as their shares.
const icon = new LabIcon({
  name: "esen-lab:icon",
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3 jp-icon-selectable" fill="#616161">
    <path d="M3 4h13v4H3zM3 10h7v4H3zm8 0h9v4h-9zM3 16h17v4H3z"/></g></svg>`,
});

interface Settings {
  rate: number;
  interval: number;
  history: number;
  run: boolean;
  showLines: boolean;
  statusBar: boolean;
}

const DEFAULTS: Settings = {
  rate: 4,
  interval: 0.5,
  history: 1800,
  run: true,
  showLines: false,
  statusBar: true,
};

const plugin: JupyterFrontEndPlugin<void> = {
  id: ID,
  description:
    "The panel of esen_lab: device, ensemble, jobs, plan and live plots of the notebook in front.",
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ISettingRegistry, ICommandPalette, ILabShell, ILayoutRestorer, ILauncher, IStatusBar],
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    registry: ISettingRegistry | null,
    palette: ICommandPalette | null,
    labShell: ILabShell | null,
    restorer: ILayoutRestorer | null,
    launcher: ILauncher | null,
    statusBar: IStatusBar | null,
  ) => {
    let settings = { ...DEFAULTS };
    const { commands, shell } = app;
    const focus = new Focus(tracker, settings.rate);

    const insert = (source: string) => {
      const panel = tracker.currentWidget;
      if (panel) void insertCell(panel, source, settings.run);
    };

    /** Show the panel; where it is in front already, fold the side area in that holds it. */
    const toggle = () => {
      const { collapseRight, collapseLeft } = (labShell ?? shell) as unknown as {
        collapseRight?: () => void;
        collapseLeft?: () => void;
      };
      if (!panel.isVisible) show(panel);
      else if (labShell && [...labShell.widgets("left")].includes(panel)) collapseLeft?.call(shell);
      else collapseRight?.call(shell);
    };

    /** Bring a widget to the front. */
    const show = (widget: Widget) => {
      if (labShell) {
        shell.activateById(widget.id);
        return;
      }
      // Notebook 7: some versions show the side area when a widget in it is activated, others do not; and to be asked
      // for what is shown already hides it in some.
      const { expandRight } = shell as unknown as { expandRight?: (id?: string) => void };
      if (!widget.isVisible) shell.activateById(widget.id);
      if (!widget.isVisible) expandRight?.call(shell, widget.id);
    };

    // --- the panel -------------------------------------------------------------------------------------------

    let keepShowLines: (on: boolean) => void = (on) => {
      settings.showLines = on;
    };
    const panel = new Panel(focus, {
      insert,
      command: (id) => {
        if (commands.hasCommand(id)) void commands.execute(id);
      },
      showLines: () => settings.showLines,
      setShowLines: (on) => keepShowLines(on),
    });
    panel.title.icon = icon;
    shell.add(panel, "right", { rank: 900, type: "esen_lab" });
    restorer?.add(panel, panel.id);

    // --- the monitor -----------------------------------------------------------------------------------------

    const monitors = new WidgetTracker<MainAreaWidget<Monitor>>({ namespace: "esen-lab-monitor" });
    const openMonitor = () => {
      let tab = monitors.find((known) => !known.isDisposed);
      if (!tab) {
        const content = new Monitor(focus, () => ({
          interval_s: settings.interval,
          history_s: settings.history,
        }));
        content.title.icon = icon;
        tab = new MainAreaWidget({ content });
        tab.id = "esen-lab-monitor-tab";
        tab.title.label = content.title.label;
        tab.title.caption = content.title.caption;
        tab.title.icon = icon;
        tab.title.closable = true;
        void monitors.add(tab);
      }
      if (!tab.isAttached) {
        // Notebook 7 has room for one document; the monitor stands beside it there.
        if (labShell) shell.add(tab, "main", { mode: "split-right", activate: false });
        else shell.add(tab, "right", { rank: 901 });
      }
      show(tab);
    };
    void restorer?.restore(monitors, { command: COMMANDS.monitor, name: () => "monitor" });

    // --- commands --------------------------------------------------------------------------------------------

    commands.addCommand(COMMANDS.panel, {
      label: "Show the Panel of esen_lab",
      caption: "Device, ensemble, jobs and plan of the notebook in front",
      icon,
      execute: () => {
        show(panel);
      },
    });
    commands.addCommand(COMMANDS.toggle, {
      label: "Show or Hide the Panel of esen_lab",
      caption: "Device, ensemble, jobs and plan of the notebook in front",
      icon,
      execute: toggle,
    });
    commands.addCommand(COMMANDS.monitor, {
      label: "Open the Monitor of esen_lab",
      caption: "Live utilization of the device, beside the notebook",
      icon,
      execute: openMonitor,
    });
    commands.addCommand(COMMANDS.quickstart, {
      label: (args) =>
        args.isLauncher ? "Ensemble quickstart" : "Open the Quickstart of esen_lab",
      caption: "A notebook that registers, profiles, plans, runs and compares an ensemble",
      icon,
      execute: async (args) => {
        const folder = typeof args.cwd === "string" ? args.cwd : "";
        const path = folder ? `${folder}/${QUICKSTART}` : QUICKSTART;
        await makeUnlessThere(app.serviceManager.contents, path, quickstart);
        return commands.execute("docmanager:open", { path, factory: "Notebook" });
      },
    });
    commands.addCommand(COMMANDS.load, {
      label: "Load esen_lab in This Notebook",
      caption: "Inserts and runs %load_ext esen_lab",
      isEnabled: () => tracker.currentWidget !== null,
      execute: () => insert("%load_ext esen_lab"),
    });
    commands.addCommand(COMMANDS.stop, {
      label: "Stop the Background Jobs of esen_lab",
      caption: "Cancels profiles and searches of the notebook in front; finished points are kept",
      isEnabled: () =>
        (focus.connection?.sections.jobs ?? []).some((job) => job.state === "running"),
      execute: () => focus.connection?.stop(),
    });
    for (const command of Object.values(COMMANDS)) {
      palette?.addItem({ command, category: "esen_lab" });
    }
    launcher?.add({
      command: COMMANDS.quickstart,
      category: "Other",
      rank: 50,
      args: { isLauncher: true },
    });

    // --- the status bar --------------------------------------------------------------------------------------

    const status = new StatusItem(focus, () => void commands.execute(COMMANDS.panel));
    statusBar?.registerStatusItem("esen-lab:status", {
      item: status,
      align: "right",
      rank: 50,
    });

    // --- settings --------------------------------------------------------------------------------------------

    if (registry) {
      registry.load(ID).then(
        (loaded) => {
          const take = () => {
            settings = { ...DEFAULTS, ...(loaded.composite as Partial<Settings>) };
            focus.setRate(settings.rate);
            status.allowed = settings.statusBar;
            panel.refresh();
          };
          keepShowLines = (on) => {
            settings.showLines = on;
            void loaded.set("showLines", on);
          };
          loaded.changed.connect(take);
          take();
        },
        (reason) =>
          console.error("The settings of esen_lab could not be read; defaults are used.", reason),
      );
    }
  },
};

export default plugin;
