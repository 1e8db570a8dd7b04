"""The tour in marimo: `marimo edit notebooks/tour_marimo.py`. The same steps as the quickstart, in plain Python."""

import marimo

app = marimo.App(width="medium", app_title="esen_lab: a tour")


@app.cell
def _():
    import marimo as mo
    import torch
    from torch import nn

    import esen_lab

    mo.md(
        """
        # Share a machine between the networks of an ensemble

        Three networks of different width answer together. One after another they leave cores idle; all at once they
        fight for them. `esen_lab` measures each at several shares of the machine, finds lanes that run side by side,
        and lets you move them by hand.
        """
    )
    return esen_lab, mo, nn, torch


@app.cell
def _(nn, torch):
    def perceptron(width, seed=0):
        """A plain network, the same for the same seed."""
        torch.manual_seed(seed)
        layers = [nn.Linear(256, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
        return nn.Sequential(*layers).eval()

    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    return perceptron, x


@app.cell
def _(esen_lab, perceptron, x):
    lab = esen_lab.Lab("cpu")
    lab.register("slim", perceptron(256), example=x)
    lab.register("middle", perceptron(768))
    lab.register("wide", perceptron(1280))
    lab
    return (lab,)


@app.cell
def _(lab):
    profile = lab.profile(budget_s=0.2, backends=[]).result(timeout=300)
    profile
    return (profile,)


@app.cell
def _(lab, profile):
    plan = lab.search() if profile else None
    plan
    return (plan,)


@app.cell
def _(lab, plan, x):
    y = lab.run(x) if plan else None
    lab.report
    return (y,)


@app.cell
def _(esen_lab, lab, plan):
    # Drag a network to another lane, drag a border to move a share, click a lane's head to pin it.
    board = esen_lab.board(lab) if plan else None
    board
    return (board,)


@app.cell
def _(esen_lab, lab, y):
    plots = esen_lab.watch(lab) if y is not None else None
    plots
    return (plots,)


if __name__ == "__main__":
    app.run()
