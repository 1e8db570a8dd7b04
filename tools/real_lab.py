"""A real JupyterLab of this checkout, and the browser to look at it with: for the browser tests and for screenshots."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_START_S = 180
_QUIET = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}


def browser_path() -> str | None:
    """The browser to use: ESEN_LAB_BROWSER, else the first of `BROWSERS` that is on PATH."""
    given = os.environ.get("ESEN_LAB_BROWSER")
    return given or next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A headless browser, as playwright has it; it ends with the block.

    Raises:
        SystemExit: There is none.
    """
    path = browser_path()
    if path is None:
        raise SystemExit("No Chromium or Chrome is on the path: install Debian's package chromium.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", *flags])
        yield browser
        browser.close()


class LabServer:
    """JupyterLab on a free port of this machine, without a token; everything that it keeps is in a folder of its own.

    Args:
        folder: For its files; it is made.
        root: What it serves.
        application: "jupyterlab", or "notebook" for Notebook 7.
        settings: JupyterLab's settings by plugin, such as "apputils-extension/themes".
        before: A folder whose packages come before the installed ones, or "".

    Raises:
        RuntimeError: It did not start; the message has the end of its log.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        *,
        application: str = "jupyterlab",
        settings: Mapping[str, object] | None = None,
        before: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # The checkout's own bundle, not the one that was installed when the environment was made.
        extensions = folder / "path" / "labextensions"
        extensions.mkdir(parents=True)
        (extensions / "esen-lab").symlink_to(ROOT / "esen_lab" / "labextension")
        for name, values in {**_QUIET, **(settings or {})}.items():
            path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values), encoding="utf-8")
        environment = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "run"),
            "JUPYTER_PATH": str(extensions.parent),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "IPYTHONDIR": str(folder / "ipython"),
            "ESEN_LAB_HOME": str(folder / "esen_lab"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), before])),
        }
        options = [
            "--no-browser",
            "--allow-root",
            "--expose-app-in-browser",
            "--ip=127.0.0.1",
            f"--port={self.port}",
            "--IdentityProvider.token=",
            "--ServerApp.password=",
            "--ServerApp.disable_check_xsrf=True",
            f"--ServerApp.root_dir={root}",
            "--FileContentsManager.delete_to_trash=False",
        ]
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", application, *options],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.popen.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/api", timeout=2):  # noqa: S310  our own server
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"JupyterLab did not start:\n{self._log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End it, and what it started."""
        self.popen.terminate()
        try:
            self.popen.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def __enter__(self) -> LabServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
