/** Cells that stand for what a button does: inserted below the active one, seen, editable, and run where that is wished. */

import { NotebookActions, NotebookPanel } from "@jupyterlab/notebook";

/** The words that are for the user to fill in; any other word in capitals may be a variable, such as X_TEST. */
const PLACEHOLDER = /(^|[\s=])(NAME|EXPR|YOUR_[A-Z_]+)(?=$|[\s=])/m;

/** Whether a line stands as it is. */
export function isComplete(source: string): boolean {
  return !PLACEHOLDER.test(source);
}

/** Where in a line the first word to fill in is: [first, end), or null. */
export function placeholderOf(source: string): [number, number] | null {
  const found = PLACEHOLDER.exec(source);
  return found ? [found.index + found[1].length, found.index + found[0].length] : null;
}

/** Insert `source` below the active cell and make it the active one; run it where `run` says so and nothing is to be filled in. */
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
  if (run && isComplete(source)) {
    await NotebookActions.run(notebook, panel.sessionContext);
    return;
  }
  const place = placeholderOf(source);
  if (!place) return;
  // The word to fill in is selected: whoever types replaces it.
  notebook.mode = "edit";
  const editor = notebook.activeCell?.editor;
  if (!editor) return;
  const [start, end] = place.map((offset) => editor.getPositionAt(offset));
  if (start && end) editor.setSelection({ start, end });
  editor.focus();
}
