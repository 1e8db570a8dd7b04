"""What lanes of green contexts are put through, over whichever driver; as a program, over the real `cuda.bindings`.

green_program.py DRIVER     DRIVER is GreenDriver or GreenCore; prints what happened as JSON, the device's grain first
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from esen_lab.devices.cuda.green import GreenDevice, self_test
from esen_lab.devices.cuda.green_driver import GreenDriver
from esen_lab.devices.cuda.green_split import Grain
from esen_lab.errors import DeviceError

EXPECTED = {
    "lanes": ["32 SMs, green context", "96 SMs, green context"],
    "streams differ": True,
    "whole": "132 SMs, whole GPU, no green context",
    "more than the device": ["96 SMs, green context", "96 SMs, green context"],
    "proof": "disjoint: 96 of 96 SMs seen, 32 of 32 SMs seen",
    "fine": ["10 SMs, green context", "122 SMs, green context"],
    "sixteen": ["8 SMs, green context"],
}


def put_through(driver: Callable[[], GreenDriver], grain: Grain, fine_grain: Grain) -> dict[str, Any]:
    """Open, prove and close lanes; what they said they are."""

    def device(*, fine: bool = False) -> GreenDevice:
        return GreenDevice(
            name="stub", sms=132, capability="9.0", grain=fine_grain if fine else grain, fine=fine, driver=driver
        )

    def told(shares: list[int], *, fine: bool = False) -> list[str]:
        opened = device(fine=fine)
        try:
            return [place.apply().description for place in opened.place(shares)]
        finally:
            opened.close()

    opened = device()
    places = opened.place([4, 12])
    lanes = [place.apply().description for place in places]
    addresses = {place._group.open()[place._lane].address for place in places}
    for place in places:
        place.release()
    opened.close()
    return {
        "lanes": lanes,
        "streams differ": len(addresses - {0}) == 2,
        "whole": told([16])[0],
        "more than the device": told([12, 12]),
        "proof": self_test(device()),
        "fine": told([5, 61], fine=True),
        "sixteen": sorted(set(told([1] * 16))),
    }


def main() -> int:
    """Print it."""
    import ctypes

    from esen_lab.devices.cuda.green_core import GreenCore
    from esen_lab.devices.cuda.probe import probe

    (gpu,) = probe(ctypes.CDLL("libcuda.so.1"))["gpus"]
    grain, fine = (Grain(sms=sms, groups=groups) for sms, groups in (gpu["grain"], gpu["fine_grain"]))
    try:
        found = put_through({"GreenDriver": GreenDriver, "GreenCore": GreenCore}[sys.argv[1]], grain, fine)
    except DeviceError as problem:
        found = {"problem": str(problem)}
    stub = ctypes.CDLL("libcuda.so.1")
    print(json.dumps({"grain": [grain.sms, grain.groups], "left": stub.stub_greens(), **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
