/** Files beside the user's own, which are never written over. */

import type { Contents } from "@jupyterlab/services";

type Writer = Pick<Contents.IManager, "get" | "save">;

/**
 * Make a notebook where the server says that there is none.
 *
 * A file that could not be asked for (no permission, a server that is gone) may be there: whoever opens it is told why.
 */
export async function makeUnlessThere(
  contents: Writer,
  path: string,
  notebook: object,
): Promise<void> {
  try {
    await contents.get(path, { content: false });
  } catch (reason) {
    if (isAbsent(reason)) {
      await contents.save(path, { type: "notebook", format: "json", content: notebook });
    }
  }
}

function isAbsent(reason: unknown): boolean {
  return (reason as { response?: { status?: number } } | null)?.response?.status === 404;
}
