"""How NVIDIA MPS is talked to: what it reads of an environment, and what its control daemon says, told apart.

The control program leaves with 0 whatever the daemon answers, and prints errors where answers go. Hence every question
ends with `LAST_QUESTION`, whose answer is a number: what comes before that number is the whole answer, "" included, and
one without it was cut off. Seen with NVIDIA's own programs of 535, 550 and 580.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from esen_lab.devices.cuda.cuda_errors import MEANINGS

LAST_QUESTION = "get_default_active_thread_percentage"
_FEW = 8  # lines of its words that an error carries
_NOISE = ("Accepting connection", "NEW UI", "UI closed", "Cmd:", "Removed Shm file", "To connect CUDA applications")
_STAMP = re.compile(r"^\[[^\]]*(Control|Server)[^\]]*\]\s*")
_NUMBER = re.compile(r"\d+(\.\d+)?")
_LEFT = re.compile(r"(?:exited|left) with status (\d+)")


def without_mps(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what MPS reads of it (`CUDA_MPS_*`): a foreign limit would go on to all who inherit it."""
    return {name: value for name, value in environment.items() if not name.startswith("CUDA_MPS_")}


def answer_in(printed: str) -> str | None:
    """What the daemon answered before `LAST_QUESTION`; None where the answer was cut off."""
    lines = printed.strip().splitlines()
    if not lines or not _NUMBER.fullmatch(lines[-1].strip()) or "." not in lines[-1]:
        return None
    return "\n".join(lines[:-1]).strip()


def own_words(log: str) -> str:
    """The daemon's own words of what it printed: without time stamps, what it was asked, and what it answered."""
    lines = [_STAMP.sub("", line).strip() for line in log.splitlines()]
    kept = [line for line in lines if line and not line.startswith(_NOISE) and not _NUMBER.fullmatch(line)]
    return "; ".join(list(dict.fromkeys(kept))[-_FEW:])


def explained(words: str) -> str:
    """The words, with the meaning of a status that is an error of CUDA."""
    meanings = [meaning for code in _LEFT.findall(words) if (meaning := MEANINGS.get(int(code)))]
    return f"{words} ({'; '.join(dict.fromkeys(meanings))})" if meanings else words


def servers_ended(words: str) -> frozenset[str]:
    """The process ids of servers that have ended, by the daemon's own words."""
    return frozenset(re.findall(r"Server (\d+) exited", words))
