jest.mock("@jupyterlab/notebook", () => ({ NotebookActions: {} }));

import { isComplete, placeholderOf } from "../cells";

describe("lines that a button inserts", () => {
  it.each([
    "%esen profile",
    "y = %esen run X",
    "y = %esen run X_TEST",
    "%esen compare x",
    "%esen export plan.py",
    "%load_ext esen_lab",
  ])("%s stands as it is", (line) => {
    expect(isComplete(line)).toBe(true);
    expect(placeholderOf(line)).toBeNull();
  });

  it("has its placeholder filled in before it runs", () => {
    const line = "%esen register NAME --example x";
    expect(isComplete(line)).toBe(false);
    const [first, end] = placeholderOf(line)!;
    expect(line.slice(first, end)).toBe("NAME");
    expect(isComplete("%esen run YOUR_INPUT")).toBe(false);
  });
});
