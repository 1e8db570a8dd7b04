"""Tries one lane under NVIDIA MPS: a process takes its place, computes a product whose answer is known, and leaves.

python -m esen_lab.devices.cuda.mps_trial    reads a pickled placement from standard input, prints what it found
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from esen_lab.common.children import child_environment
from esen_lab.errors import DeviceError, EsenError

if TYPE_CHECKING:
    from esen_lab.devices.base import Placement

TRIAL_S = 60.0
_FOUND, _PROBLEM = "found: ", "problem: "


def try_lane(placement: Placement, *, timeout_s: float = TRIAL_S) -> str:
    """Have a process take this place; returns what it found in force, in one line.

    Raises:
        DeviceError: It could not, or computed something wrong; the message is its own.
    """
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "esen_lab.devices.cuda.mps_trial"],
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as child:
        try:
            out, _ = child.communicate(pickle.dumps(placement), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            placement.retire(child.pid)
            child.kill()
            raise DeviceError("A trial lane answers", given=f"no answer within {timeout_s:g} s") from None
        except BaseException:
            child.kill()
            raise
    lines = out.decode(errors="replace").splitlines()
    for line in lines:
        if line.startswith(_FOUND):
            return line.removeprefix(_FOUND)
    said = [line.removeprefix(_PROBLEM) for line in lines if line.startswith(_PROBLEM)] or lines[-1:] or ["nothing"]
    raise DeviceError("A trial lane finds its limit in force and computes right", given=said[0])


def main() -> int:
    """Take the place, compute, leave."""
    placement = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  from our own parent
    parent = os.getppid()
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    try:
        in_force = placement.apply()
        _compute(in_force.torch_device)
    except EsenError as problem:
        _say(f"{_PROBLEM}{' '.join(str(problem).split())}")
        return 1
    _say(f"{_FOUND}{in_force.description}, a product right")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _compute(where: str) -> None:
    """Multiply whole numbers, which is exact in every mode a GPU has for float32."""
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-4, 5, (256, 256), generator=generator).float() for _ in range(2))
    device: Any = torch.device(where)
    if not torch.equal((a.to(device) @ b.to(device)).cpu(), a @ b):
        raise DeviceError("A lane computes a product right", given="another result than the CPU's")


def _leave_with(parent: int) -> None:
    """End when the parent does: nobody would read the answer."""
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
