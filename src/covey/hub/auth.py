"""Who may ask: the hub's token, the page's cookie, and the checks against other people's pages.

Source: protocol 6, "Security".
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import stat
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from covey.errors import AuthenticationError, CoveyError
from covey.hub.http import Request
from covey.hub.problems import Problem, refusal

TOKEN_BYTES: Final = 32
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# With one token there is one principal, and it may do everything; scopes of further tokens narrow that.
OWNER: Final = "owner"
# Whoever is let in without a token was let in by the program that mounted the hub.
ANONYMOUS: Final = "anonymous"


class StateFolderError(CoveyError):
    """The hub's state folder cannot be used."""


class Outside(msgspec.Struct, frozen=True):
    """How the hub is addressed from outside.

    Args:
        hosts: values of the ``Host`` header that are ours; None when whoever mounted the hub checks it.
        origins: origins of other sites that may read and write from a browser (CORS).
        is_tls: clients reach us by https.
        port: where we listen on every address of the machine: then any address with this port is ours. A page of
            another site can point a name at us, but not an address.
    """

    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()
    is_tls: bool = False
    port: int | None = None


def outside_of(
    host: str,
    port: int,
    *,
    public_url: str | None = None,
    origins: frozenset[str] = frozenset(),
    is_tls: bool = False,
) -> Outside:
    """Return how a hub bound to this address, and known by this URL, is addressed."""
    is_local = host in {"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"}  # noqa: S104 -- compared, not bound
    names = {host, "localhost", "127.0.0.1", "[::1]"} if is_local else {host}
    hosts = {f"{_bracketed(name)}:{port}" for name in names}
    if port == (443 if is_tls else 80):
        hosts |= {_bracketed(name) for name in names}
    if public_url is not None:
        parts = urlsplit(public_url)
        hosts.add(parts.netloc.lower())
        is_tls = parts.scheme == "https"
    return Outside(frozenset(hosts), origins, is_tls, port if host in {"0.0.0.0", "::"} else None)  # noqa: S104


def check_host(request: Request, outside: Outside) -> Problem | None:
    """Return the refusal of a request whose ``Host`` is not ours: a page of another site that points its name at us."""
    if outside.hosts is None:
        return None
    host = request.headers.get("host", "").lower()
    if host in outside.hosts or (outside.port is not None and _is_address(host, outside.port)):
        return None
    return refusal(
        421,
        "wrong-host",
        "The Host header is not this hub's",
        f"the request was sent to {host[:200]!r}, this hub answers as {', '.join(sorted(outside.hosts))}",
        hint="use that address, or start the hub with --public-url for the name it has outside",
    )


def check_origin(request: Request, outside: Outside) -> Problem | None:
    """Return the refusal of a request that another site's page makes with our cookie.

    Only requests that can change something, or that open a WebSocket, need it: no page can read our other answers.
    """
    if request.method in SAFE_METHODS and not request.is_websocket:
        return None
    origin = request.headers.get("origin")
    scheme = "https" if outside.is_tls else "http"
    if origin is not None:
        is_own = origin == f"{scheme}://{request.headers.get('host', '').lower()}"
    else:
        is_own = request.headers.get("sec-fetch-site") == "same-origin"
    if is_own:
        return None
    return refusal(
        403,
        "foreign-origin",
        "The request comes from another site",
        "a cookie authenticates this request, so it must come from the hub's own page",
        hint="programs send 'Authorization: Bearer <token>' instead of the cookie",
    )


class Gate:
    """Tells who sent a request.

    Args:
        token: what opens the hub; None lets everybody in, for a hub mounted in an app that has its own gate.
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        # The cookie is not the token itself: who reads a browser's cookies does not get what programs use.
        self._cookie = (
            None if self._token is None else hmac.new(self._token, b"covey cookie 1", hashlib.sha256).hexdigest()
        )

    def knows(self, token: str) -> bool:
        """Return whether this is the hub's token, in a time that says nothing about it."""
        return self._token is None or hmac.compare_digest(token.encode("utf-8", "replace"), self._token)

    def principal(self, request: Request, outside: Outside) -> str | Problem:
        """Return who sent the request, or the refusal of what looks like another site's page.

        Raises:
            AuthenticationError: no valid token came with it.
        """
        if self._token is None:
            return ANONYMOUS
        authorization = request.headers.get("authorization")
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() == "bearer" and self.knows(token.strip()):
                return OWNER
            raise AuthenticationError("the token is not this hub's", hint=_HOW_TO_SEND)
        if self._knows_cookie(request):
            return check_origin(request, outside) or OWNER
        raise AuthenticationError("no token came with the request", hint=_HOW_TO_SEND)

    def cookie_header(self, request: Request, outside: Outside) -> str:
        """Return the ``Set-Cookie`` value that lets the page in from now on."""
        secure = "; Secure" if outside.is_tls else ""
        return f"{_cookie_name(request)}={self._cookie or ''}; HttpOnly; SameSite=Strict; Path=/{secure}"

    def _knows_cookie(self, request: Request) -> bool:
        header = request.headers.get("cookie")
        if header is None or self._cookie is None:
            return False
        try:
            morsel = SimpleCookie(header).get(_cookie_name(request))
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self._cookie.encode())


_HOW_TO_SEND: Final = "send 'Authorization: Bearer <token>'; the token is in the file 'token' of the hub's state folder"


def keep_token(folder: Path) -> str:
    """Return the token kept in ``folder``, made now if there is none; only its owner can read the file.

    Raises:
        StateFolderError: the folder or the file cannot be made or read.
    """
    path = folder / "token"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _read_token(path)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(token + "\n")
        except OSError:
            path.unlink()  # a disk that was full once must not keep the hub from starting for ever
            raise
    except OSError as error:
        message = f"the state folder {str(folder)!r} cannot be used: {error.strerror or error}"
        raise StateFolderError(message, hint="set COVEY_STATE to a folder that you can write") from error
    return token


def _read_token(path: Path) -> str:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o600)
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    # An empty or cut file is what a full disk leaves behind; a hub with an empty token would be open to everybody.
    if len(token) < TOKEN_BYTES:
        message = f"{str(path)!r} holds no usable token"
        raise StateFolderError(message, hint="remove the file; the hub makes a new one")
    return token


def _cookie_name(request: Request) -> str:
    server = request.scope.get("server")
    port = server[1] if server else 0
    return f"covey_{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_address(host: str, port: int) -> bool:
    name, _, number = host.rpartition(":")
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return number == str(port)
