import { makeUnlessThere } from "../files";

const save = jest.fn();

const server = (get: () => Promise<unknown>) => ({ get, save }) as never;
const answers = (status: number) => server(() => Promise.reject({ response: { status } }));

describe("the quickstart", () => {
  beforeEach(() => save.mockReset());

  it("is made where there is none", async () => {
    await makeUnlessThere(answers(404), "a/b.ipynb", { cells: [] });
    expect(save).toHaveBeenCalledWith("a/b.ipynb", {
      type: "notebook",
      format: "json",
      content: { cells: [] },
    });
  });

  it("is not written over where it is there", async () => {
    await makeUnlessThere(
      server(() => Promise.resolve({})),
      "b.ipynb",
      {},
    );
    expect(save).not.toHaveBeenCalled();
  });

  it.each([
    ["no permission", answers(403)],
    ["a server that fails", answers(500)],
    ["no connection", server(() => Promise.reject(new TypeError("Failed to fetch")))],
  ])("is not written over where it could not be asked for: %s", async (_, contents) => {
    await makeUnlessThere(contents, "b.ipynb", {});
    expect(save).not.toHaveBeenCalled();
  });
});
