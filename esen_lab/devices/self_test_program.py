"""Tries one device, in the process that this is.

python -m esen_lab.devices.self_test_program "cuda:0 mps"     prints what `self_test.py` reads
"""

from __future__ import annotations

import json
import signal
import sys

from esen_lab.devices.catalogue import try_device
from esen_lab.devices.offer import Verdict
from esen_lab.devices.self_test import MARK
from esen_lab.errors import EsenError


def main() -> int:
    """Try the device that the command line names."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` and exit hooks run
    try:
        verdict = Verdict(passed=True, text=try_device(sys.argv[1]))
    except EsenError as problem:
        verdict = Verdict(passed=False, text=" ".join(str(problem).split()))
    except Exception as problem:
        verdict = Verdict(passed=False, text=f"{type(problem).__name__}: {' '.join(str(problem).split())}")
    sys.stdout.write(MARK + json.dumps({"passed": verdict.passed, "text": verdict.text}) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
