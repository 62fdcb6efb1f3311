"""The console page and its files, as they lie in the package."""

from __future__ import annotations

import re
from importlib import resources
from typing import Final

from covey.hub.http import Answer, Request, Response
from covey.hub.problems import not_found, problem_response

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# No separators and no leading dot: a name of this form can only be a file of the folder itself.
_FILE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\.(css|html|js|svg)", re.ASCII)
# Nothing inline and nothing from elsewhere: output of a session that looks like a script stays text.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def index(request: Request) -> Answer:
    """``GET /``."""
    return await asset(request, "index.html")


async def asset(request: Request, name: str) -> Answer:
    """``GET /console/{name}``: one of the page's files, and no other file."""
    match = _FILE.fullmatch(name)
    file = None if match is None else resources.files("covey.hub").joinpath("console", name)
    if match is None or file is None or not file.is_file():
        return problem_response(not_found(request.path, hint="the page is at /"))
    headers = [
        ("content-type", _TYPES[match[1]]),
        ("content-security-policy", _POLICY),
        ("cache-control", "no-cache"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ]
    return Response(200, file.read_bytes(), headers=headers)
