"""A hub in its own process, started as a program that embeds covey would."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

HUB: Final = """
import sys
from pathlib import Path
from covey.assembly import Settings, serve
serve(Settings(state_folder=Path(sys.argv[1]), port=int(sys.argv[2])), on_ready=lambda hub: print(hub.url, flush=True))
"""


class HubProcess:
    """A running hub."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.url = url  # with the token, as the hub prints it
        self.address, self.token = url.split("/#token=")
        self.port = int(self.address.rpartition(":")[2])


@contextmanager
def hub_process(state_folder: Path, *, port: int = 0) -> Iterator[HubProcess]:
    command = [sys.executable, "-c", HUB, str(state_folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=\S{32,}", line), line
            yield HubProcess(line, process)
        finally:
            process.terminate()
            process.wait(timeout=15)
