"""One capture at a time in a process.

torch says so of CUDA graphs, and what a capture begins with, a wait for the whole device, breaks the capture of another
thread whatever its mode. Lanes that are threads of one process (green contexts) would meet there when a plan starts.
Lanes that are processes never wait here.
"""

from __future__ import annotations

import threading

CAPTURING = threading.RLock()
"""Held by whoever captures a graph, compiles, or loads a sub-model: the others may wait for the whole device too."""
