"""What `%esen watch` costs: CPU time of the kernel's process at 2 Hz, and the effect on the JCT, in paired rounds.

    python benchmarks/bench_watch.py [--seconds 20] [--rounds 12]

A real ipykernel, spoken to as a page does; no page is open, so what a browser spends is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parents[1]
PREPARE = """
import json, time, psutil, torch
from torch import nn
x = torch.randn(64, 256)
wide = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 10))
slim = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
%load_ext esen_lab
%esen register wide --example x
%esen register slim
_ = %esen run x
def jct(runs=60):
    times = []
    for _ in range(runs):
        lab.run(x)
        times.append(lab.report.jct_s)
    return sorted(times)[runs // 2]
def settle():
    time.sleep(2)  # opening and closing the plots is not what is asked about
def cpu(seconds):
    process = psutil.Process()
    before = sum(process.cpu_times()[:2]); began = time.monotonic()
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
"""


def main() -> None:
    """Print both figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=float, default=20.0)
    words.add_argument("--rounds", type=int, default=12)
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(Path(folder, "k")))
        manager.start_kernel(env={**os.environ, "ESEN_LAB_HOME": folder, "PYTHONPATH": str(ROOT)})
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            client.execute_interactive(PREPARE, timeout=120, output_hook=lambda _: None)
            idle = _value(client, f"cpu({given.seconds})")
            client.execute_interactive("%esen watch", timeout=60, output_hook=lambda _: None)
            _value(client, "cpu(3)")  # the first document, the first samples
            watched = _value(client, f"cpu({given.seconds})")
            print(
                f"CPU of the kernel's process: {idle:.2%} of one core without, {watched:.2%} with %esen watch at 2 Hz"
            )
            ratios = []
            for _ in range(given.rounds):
                client.execute_interactive("%esen watch", timeout=60, output_hook=lambda _: None)
                on = _value(client, "settle() or jct()")
                client.execute_interactive("%esen watch --stop", timeout=60, output_hook=lambda _: None)
                ratios.append(on / _value(client, "settle() or jct()"))
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"JCT watched / not: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}, {len(ratios)} pairs")
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def _value(client: object, expression: str) -> float:
    """The value of an expression in the kernel."""
    printed: list[str] = []

    def keep(message: dict[str, object]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream" and isinstance(content, dict):
            printed.append(str(content["text"]))

    client.execute_interactive(f"print(json.dumps({expression}))", timeout=300, output_hook=keep)  # type: ignore[attr-defined]
    return float(json.loads("".join(printed)))


if __name__ == "__main__":
    main()
