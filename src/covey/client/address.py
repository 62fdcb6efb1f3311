"""Where the hub is and what lets us in, without the token ever standing where others can read it.

The token comes from the environment or from a file that only its owner can read. It is never taken from a command
line, which every user of the machine can list, and never put into a URL, a log or an error.

Source: protocol 6, "Security".
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

from covey.errors import AuthenticationError, InvalidInputError

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 7077
_TOKEN_BYTES_MAX: Final = 4096


class Origin(NamedTuple):
    """What has to be the same for a token to be sent along."""

    scheme: str
    host: str
    port: int


class Address(NamedTuple):
    """A hub: its URL without a trailing slash, and the token or None."""

    url: str
    token: str | None

    def __repr__(self) -> str:
        return f"Address(url={self.url!r}, token={'…' if self.token else None})"

    def headers(self) -> dict[str, str]:
        """Return what authenticates a request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def path(self, *parts: str) -> str:
        """Return the URL of a resource; a part can't reach outside its place in the path."""
        return "/".join([self.url, "v1", *(quote(part, safe="") for part in parts)])


def state_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder where hubs of this user keep their tokens, by port. It need not exist."""
    own = environ.get("COVEY_STATE")
    if own:
        return Path(own).expanduser()
    shared = environ.get("XDG_STATE_HOME")
    # The XDG specification says that a relative path there is to be ignored.
    base = Path(shared) if shared and Path(shared).is_absolute() else Path("~/.local/state").expanduser()
    return base / "covey"


def token_file(port: int, environ: Mapping[str, str] = os.environ) -> Path:
    """Return where a hub on this port keeps its token."""
    return state_folder(environ) / str(port) / "token"


def find_address(
    *, url: str | None = None, port: int | None = None, environ: Mapping[str, str] = os.environ
) -> Address:
    """Return the hub that is meant: by ``url``, by ``port`` on this machine, by ``COVEY_URL``, or on the default port.

    Raises:
        InvalidInputError: the URL is not one of a hub.
        AuthenticationError: the token file is there and can't be read.
    """
    named = environ.get("COVEY_URL")
    if url is not None:
        chosen = _split(url, "the URL")
        if chosen.fragment:
            message = "the URL has a fragment, and on a command line anyone can read the token in it"
            raise InvalidInputError(message, hint="leave out all from the '#' on and set COVEY_TOKEN")
    elif port is not None:
        chosen = _split(f"http://{DEFAULT_HOST}:{port}", "the port")
    else:
        chosen = _split(named or f"http://{DEFAULT_HOST}:{DEFAULT_PORT}", "COVEY_URL")
    origin = _origin(chosen)
    # A token in the environment belongs to the hub that the environment names; another one must not get it.
    is_same = not named or _origin(_split(named, "COVEY_URL")) == origin
    token = environ.get("COVEY_TOKEN") if is_same else None
    if not token and chosen.fragment.startswith("token="):
        token = chosen.fragment.removeprefix("token=")
    # Token files are by port alone, so they speak only for hubs of this machine.
    if not token and is_loopback(origin.host):
        token = _read_token(token_file(origin.port, environ))
    return Address(chosen._replace(fragment="", query="").geturl().rstrip("/"), _checked(token) if token else None)


def origin_of(url: str) -> Origin:
    """Return the origin of a URL.

    Raises:
        InvalidInputError: it is not an http or https URL.
    """
    return _origin(_split(url, "the URL"))


def is_loopback(host: str) -> bool:
    """Tell whether the host is this machine, without asking a name server."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _split(url: str, what: str) -> SplitResult:
    # The URL itself is not in the messages: it may hold a password or a token.
    hint = f"use one such as http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        message = f"{what} is malformed"
        raise InvalidInputError(message, hint=hint) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        message = f"{what} is not an http or https URL with a host"
        raise InvalidInputError(message, hint=hint)
    if parts.username is not None or parts.password is not None:
        message = f"{what} has a user name or password in it"
        raise InvalidInputError(message, hint="a hub takes a token: set COVEY_TOKEN")
    return parts


def _origin(parts: SplitResult) -> Origin:
    return Origin(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def _read_token(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            token = file.read(_TOKEN_BYTES_MAX).decode("utf-8", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        message = f"the token file {path} can't be read: {error.strerror}"
        raise AuthenticationError(message, hint="run this as the user who runs the hub, or set COVEY_TOKEN") from error
    return token or None


def _checked(token: str) -> str:
    if not (token.isascii() and token.isprintable()) or " " in token:
        message = "the token has characters that no token of a hub has"
        raise AuthenticationError(
            message, hint="copy it again: the part after '#token=' of the URL that the hub prints"
        )
    return token
