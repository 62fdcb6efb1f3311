"""What all requests of the client have in common: the HTTP client's settings, and its errors in covey's words."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from covey.client.address import is_loopback, origin_of
from covey.client.problems import PROBLEM_BYTES_MAX, Problem, read_problem
from covey.errors import AuthenticationError, CoveyError, HubUnreachableError, TransientError

if TYPE_CHECKING:
    import httpx2

CONNECT_S: Final = 10.0


def new_http_client(url: str, *, transport: httpx2.AsyncBaseTransport | None = None) -> httpx2.AsyncClient:
    """Return a client for requests to ``url`` that neither follows redirects nor limits how long an answer takes.

    Proxies and certificates are taken from the environment as other programs take them, with one exception: what
    goes to this machine goes there directly, since a proxy elsewhere can't reach it and would see the token.
    """
    import httpx2

    return httpx2.AsyncClient(
        transport=transport,
        trust_env=not is_loopback(origin_of(url).host),
        timeout=httpx2.Timeout(None, connect=CONNECT_S),
        follow_redirects=False,
        # Requests of one client are few and to one hub; the limits guard against a mistake, not against load.
        limits=httpx2.Limits(max_connections=64, max_keepalive_connections=8),
    )


def connect_error(url: str, error: Exception) -> CoveyError:
    """Return the error that says nobody answers at ``url``, or not the one who should.

    Only the origin of ``url`` is named: a query may hold anything.
    """
    origin = origin_of(url)
    where = f"{origin.scheme}://{_bracketed(origin.host)}:{origin.port}"
    if _is_about_certificate(error):
        message = f"the certificate of {where} is not trusted: {describe(error)}"
        return AuthenticationError(message, hint="if it is the right hub, name its authority in SSL_CERT_FILE")
    if is_loopback(origin.host):
        return HubUnreachableError(f"no hub answers at {where}", hint="start one with `covey serve`")
    return HubUnreachableError(
        f"no hub answers at {where}: {describe(error)}", hint="check COVEY_URL, the network and that the hub runs"
    )


def _is_about_certificate(error: BaseException | None) -> bool:
    seen = 0
    # A chain of causes can be a ring; none that matters is deep.
    while error is not None and seen < 16:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def describe(error: BaseException) -> str:
    """Return what went wrong in a few words; errors without a text are told by their type."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def cut(error: Exception) -> TransientError:
    """Return the error that says a connection broke after the request was sent."""
    return TransientError(f"the connection broke: {describe(error)}")


async def problem_of(response: httpx2.Response) -> Problem:
    """Read what an answer that is no success says, as far as it is worth reading, and let go of it."""
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > PROBLEM_BYTES_MAX:
                break
    finally:
        await response.aclose()
    return read_problem(response.status_code, response.headers, bytes(body[:PROBLEM_BYTES_MAX]))


def told(error: CoveyError) -> str:
    """Return the error as one line: what, and what to do about it."""
    return f"{error.message}: {error.hint}" if error.hint else error.message


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
