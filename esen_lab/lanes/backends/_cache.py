"""What engines have prepared, kept for later sessions in a folder of the user's own.

    FOLDER/backends-1/<key>     one entry: the digest of its data, then the data
    FOLDER/backends-1/inductor  files that torch keeps and reads by itself

The key of an entry is made of the sub-model's fingerprint, the look of the input, and the versions of the engine, of
torch and of the processor: what has changed is not found. A graph (OpenVINO's intermediate representation, ONNX) is
the same for every processor and number of threads, so its key has neither; graphs go along with exported scripts, and
are then found as if they were kept here. An entry whose digest is another one is removed and made
anew. Entries are written aside and renamed, so that processes that make the same one at once do not meet. The entries
and torch's files have a bound each; what was not used for longest goes.

Engines run what they load. So the folder must belong to this user and be closed to all others, or it is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from esen_lab.ensemble.fingerprint import bytes_digest, text_digest
from esen_lab.errors import StoreError
from esen_lab.files.leftovers import sweep, temporary_file
from esen_lab.files.user_folder import user_folder

MOST_BYTES = 2 * 10**9
_FORM = "backends-1"
_DIGEST_BYTES = 32
_AT_WORK_S = 3600.0  # torch may be about to read what it wrote within this time


@dataclass(slots=True, kw_only=True)
class Cache:
    """The entries of one sub-model with one backend.

    Attributes:
        folder: Of all entries; exists, and is the user's alone. None: nothing is kept.
        owner: What their keys begin with.
        network: What the keys of graphs begin with.
        brought: Graphs by name that an exported script has brought along.
        most_bytes: The bound on all entries.
    """

    folder: Path | None
    owner: str
    network: str = ""
    brought: dict[str, bytes] = field(default_factory=dict)
    most_bytes: int = MOST_BYTES
    _taken: set[str] = field(default_factory=set)
    _forgotten: set[str] = field(default_factory=set)  # not read again, also where the folder lets nothing be removed
    _by_brought: str = ""  # a digest of the brought graph that is in use

    def take(self, look: str) -> bytes | None:
        """What was kept under a look, or None."""
        return self._take(text_digest(self.owner, look))

    def peek(self, look: str) -> bytes | None:
        """What was kept under a look, or None; it stays where what was taken is forgotten."""
        return self._read(text_digest(self.owner, look))

    def forget(self, look: str) -> None:
        """Remove what was kept under a look."""
        self._forget(text_digest(self.owner, look))

    def keep(self, look: str, data: bytes) -> None:
        """Keep something under a look, if it can be written. What comes of brought graphs is not kept.

        A graph that somebody else has made would else be what this user's own networks are executed by.
        """
        if not self._by_brought:
            self._keep(text_digest(self.owner, look), data)

    def peek_of_graph(self, look: str) -> bytes | None:
        """What `keep_of_graph` kept under a look while the same graph was in use, or None."""
        return self._read(self._name_of_graph(look))

    def keep_of_graph(self, look: str, data: bytes) -> None:
        """Keep what was found out here of the graph that is in use, for whoever uses that very graph, if it can be."""
        self._keep(self._name_of_graph(look), data)

    def _name_of_graph(self, look: str) -> str:
        return text_digest(self.owner, look, *filter(None, [self._by_brought]))

    def graph_name(self, form: str) -> str:
        """The name of the graph for inputs of a form, among all graphs."""
        return text_digest(self.network, form)

    def take_graph(self, form: str) -> bytes | None:
        """The graph for inputs of a form, or None."""
        name = self.graph_name(form)
        kept = self._take(name)
        if kept is None and name in self.brought:
            graph = self.brought.pop(name)  # its memory is as large as the network's
            self._by_brought = bytes_digest(graph)
            return graph
        return kept

    def keep_graph(self, form: str, graph: bytes) -> None:
        """Keep a graph, if it can be written."""
        self._keep(self.graph_name(form), graph)

    def forget_taken(self) -> bool:
        """Remove what was taken; whether there was anything."""
        for name in self._taken:
            self._forget(name)
        found = bool(self._taken or self._by_brought)
        self._taken.clear()
        self._by_brought = ""
        return found

    def folder_for(self, engine: str) -> Path | None:
        """A folder for what an engine keeps by itself, pruned to the bound; None where nothing can be kept."""
        if self.working_folder is None:
            return None
        folder = self.working_folder / engine
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            return None
        with contextlib.suppress(OSError):  # other processes take folders away while they are listed
            until = time.time() - _AT_WORK_S
            prune((file for file in folder.rglob("*") if file.is_file()), self.most_bytes, until)
        return folder if os.access(folder, os.W_OK | os.X_OK) else None

    @property
    def working_folder(self) -> Path | None:
        """The folder of all entries, where files can be made in it."""
        return self.folder if self.folder is not None and os.access(self.folder, os.W_OK | os.X_OK) else None

    def _take(self, name: str) -> bytes | None:
        data = self._read(name)
        if data is not None:
            self._taken.add(name)
        return data

    def _forget(self, name: str) -> None:
        self._forgotten.add(name)
        if self.folder is not None:
            remove(self.folder / name)

    def _read(self, name: str) -> bytes | None:
        if self.folder is None or name in self._forgotten:
            return None
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError:
            return None
        data = content[_DIGEST_BYTES:]
        if hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest() != content[:_DIGEST_BYTES]:
            remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of its last use
        return data

    def _keep(self, name: str, data: bytes) -> None:
        if self.folder is None or len(data) + _DIGEST_BYTES > self.most_bytes:
            return
        path = self.folder / name
        with contextlib.suppress(OSError, StoreError):
            sweep(self.folder)
            with temporary_file(path) as (made, handle):
                os.fchmod(handle, 0o600)
                with os.fdopen(os.dup(handle), "wb") as file:
                    file.write(hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest())
                    file.write(data)
                os.replace(made, path)
            self._forgotten.discard(name)
            prune((entry for entry in self.folder.iterdir() if entry.is_file()), self.most_bytes)


def cache_for(fingerprint: str, backend: str, version: str, brought: Mapping[str, bytes] | None = None) -> Cache | None:
    """The cache of one sub-model with one backend.

    Args:
        fingerprint: The sub-model's.
        backend: The backend's name.
        version: Of its engine.
        brought: Graphs by name that an exported script has brought along.

    Returns:
        None where there is no folder that is this user's alone, and nothing was brought.
    """
    import torch

    folder = own_folder()
    if folder is None and not brought:
        return None
    every = (fingerprint, backend, version, torch.__version__)
    owner = text_digest(*every, platform.machine(), _processor())
    network = text_digest(*every, "graph")
    return Cache(folder=folder, owner=owner, network=network, brought=dict(brought or {}))


def own_folder(*, make: bool = True) -> Path | None:
    """The folder of all entries, made where it is not there; None where there is none that is this user's alone."""
    try:
        folder = user_folder() / _FORM
    except StoreError:
        return None
    return folder if (make or folder.is_dir()) and _is_private(folder) else None


def _is_private(folder: Path) -> bool:
    """Whether a folder is there, belongs to this user, and is closed to others; makes it, and closes it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError:
        return False
    return True


def _processor() -> str:
    """The processor's name and what it can do, where the system says."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        wanted = ("model name", "flags", "Features", "CPU part")
        first = dict(line.partition(":")[::2] for line in lines)  # all are alike, or nearly
        return repr(sorted((key.strip(), value.strip()) for key, value in first.items() if key.strip() in wanted))
    return platform.processor()


def prune(files: Iterator[Path], most_bytes: int, used_before: float = float("inf")) -> None:
    """Remove the files that were not used for longest until the rest fits, but none used after `used_before`."""
    known = []
    for file in files:
        with contextlib.suppress(OSError):
            found = file.stat()
            known.append((found.st_mtime, found.st_size, file))
    known.sort()
    total = sum(size for _, size, _ in known)
    for used, size, file in known:
        if total <= most_bytes or used >= used_before:
            return
        remove(file)
        total -= size


def small_entries(folder: Path, most_bytes: int) -> Iterator[tuple[Path, bytes]]:
    """The entries whose data is no longer than that, and their data."""
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            with contextlib.suppress(OSError):
                if path.is_file() and path.stat().st_size <= most_bytes + _DIGEST_BYTES:
                    yield path, path.read_bytes()[_DIGEST_BYTES:]


def remove(path: Path) -> None:
    """Remove a file, if it is there and can be."""
    with contextlib.suppress(OSError):
        path.unlink()
