/** Cells that stand for what a button does: inserted below the active one, seen, editable, and run where that is wished. */

import { NotebookActions, NotebookPanel } from "@jupyterlab/notebook";

/** Insert `source` below the active cell and make it the active one; run it unless `run` is false. */
export async function insertCell(
  panel: NotebookPanel,
  source: string,
  run: boolean,
): Promise<void> {
  const notebook = panel.content;
  const active = notebook.activeCell;
  // An empty cell is taken instead of leaving it behind.
  if (!active || active.model.type !== "code" || active.model.sharedModel.getSource().trim()) {
    NotebookActions.insertBelow(notebook);
  }
  notebook.activeCell?.model.sharedModel.setSource(source);
  if (notebook.activeCell) await notebook.scrollToCell(notebook.activeCell);
  if (run) await NotebookActions.run(notebook, panel.sessionContext);
}
