"""Source text of the notebook: found, made to stand alone, and run elsewhere.

capture.py      what a class, function or cell needs, as text that runs anywhere
definitions.py  where the text of a class or function is
names.py        which global names source or compiled code uses
literals.py     plain values as text
closure.py      the text with the modules it imports, and running it
"""

from __future__ import annotations

from esen_lab.ensemble.source.capture import Captured, capture_cell, capture_object, capture_objects
from esen_lab.ensemble.source.closure import Closure, execute, run_closure

__all__ = ["Captured", "Closure", "capture_cell", "capture_object", "capture_objects", "execute", "run_closure"]
