"""The snippets of a guide, as files: a fenced block whose info line has a name after its language."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

GUIDES: Final = Path(__file__).parents[1] / "docs/guides"
# What the guides write for the reader's own server.
ADDRESS: Final = "http://127.0.0.1:8000"
_NAMED: Final = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets(guide: str) -> dict[str, str]:
    """Return the text of each named snippet."""
    found = _NAMED.findall((GUIDES / guide).read_text(encoding="utf-8"))
    assert len(dict(found)) == len(found), "two snippets have one name"
    return dict(found)


def write_snippets(guide: str, folder: Path, *, url: str | None = None) -> None:
    """Write them to ``folder``, with the address of a server that runs in place of the guide's."""
    for name, text in snippets(guide).items():
        (folder / name).write_text(text.replace(ADDRESS, url or ADDRESS), encoding="utf-8")
