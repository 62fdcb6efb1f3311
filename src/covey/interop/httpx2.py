"""Transient failures of any httpx2 client: a transport that sends each request through a ``covey.resilience.Target``.

It serves clients with and without ``async``, and SDKs that are built on httpx2. ``covey.interop.httpx`` is the same for
httpx.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final, cast

import httpx2

from covey.errors import LocalProtocolError, StreamCutError, TimedOutError, UnavailableError
from covey.interop.http_exchange import Exchange, Library, Options, Targets, send, send_async
from covey.interop.stream_rules import LLM_STREAMS, StreamRules
from covey.resilience.policy import Policy
from covey.resilience.target import Target

__all__ = [
    "LLM_STREAMS",
    "PolicyTransport",
    "RequestRefusedError",
    "RequestTimedOutError",
    "ResponseCutError",
    "StreamRules",
]


class RequestRefusedError(UnavailableError, httpx2.TransportError):
    """The policy did not let the request out; see ``covey.errors.UnavailableError``."""


class RequestTimedOutError(TimedOutError, httpx2.TimeoutException):
    """No answer within the policy's time; see ``covey.errors.TimedOutError``."""

    def __init__(self, message: str, *, maybe_executed: bool) -> None:
        super().__init__(message, maybe_executed=maybe_executed)
        # TimeoutError, which stands between, does not know that there are more to be told.
        httpx2.TimeoutException.__init__(self, message)


class ResponseCutError(StreamCutError, httpx2.RemoteProtocolError):
    """An event stream ended without the event that says it is complete; see ``StreamRules``."""


class PolicyTransport(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Sends requests through a policy, and what it lets out through ``wrapped``.

    A request is repeated as the policy says if that does no harm: its method may run twice, or it has an
    ``Idempotency-Key``, or it surely never ran; and its body can be sent again. When no attempt brings a good answer,
    the last answer is returned, as without a policy. An answer that was handed out is never asked for again.

    The policy's time covers a request up to the head of its answer. How long the body may be silent is its ``idle_s``.

    Args:
        targets: the target of all requests; or a policy, with a target for each origin; or a function that is given
            a request and returns its target. ``Target.options(idempotent=True)`` lets every request be repeated.
        wrapped: what sends; unless given, the library's own with its defaults. Settings such as ``verify``, ``proxy``
            and ``http2`` are its, and not the client's. It is closed with this transport.
        tells_deadline: send what remains of the time in ``Covey-Timeout-Ms``, for a covey hub.
        streams: how to read event streams. They are handed out at their first event that is worth showing: until then
            a failure inside them is one of the request, and later an end without the last event is an error.

    Raises:
        InvalidInputError: ``targets`` is none of these.
    """

    def __init__(
        self,
        targets: Target | Policy | Callable[[httpx2.Request], Target],
        *,
        wrapped: httpx2.BaseTransport | httpx2.AsyncBaseTransport | None = None,
        tells_deadline: bool = False,
        streams: StreamRules | None = None,
    ) -> None:
        self._targets = Targets(targets)
        self._wrapped = wrapped
        self._options = Options(tells_deadline=tells_deadline, streams=streams)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """See ``httpx2.BaseTransport``."""
        wrapped = self._wrapped = self._wrapped or httpx2.HTTPTransport()
        if not isinstance(wrapped, httpx2.BaseTransport):
            raise _misused(wrapped, "httpx2.Client")
        return cast("httpx2.Response", send(wrapped, self._exchange(request)))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See ``httpx2.AsyncBaseTransport``."""
        wrapped = self._wrapped = self._wrapped or httpx2.AsyncHTTPTransport()
        if not isinstance(wrapped, httpx2.AsyncBaseTransport):
            raise _misused(wrapped, "httpx2.AsyncClient")
        return cast("httpx2.Response", await send_async(wrapped, self._exchange(request)))

    def close(self) -> None:
        """See ``httpx2.BaseTransport``."""
        if isinstance(self._wrapped, httpx2.BaseTransport):
            self._wrapped.close()

    async def aclose(self) -> None:
        """See ``httpx2.AsyncBaseTransport``."""
        if isinstance(self._wrapped, httpx2.AsyncBaseTransport):
            await self._wrapped.aclose()

    def _exchange(self, request: httpx2.Request) -> Exchange:
        return Exchange(_LIBRARY, request, self._targets.of(request), self._options)


def _misused(wrapped: object, client: str) -> LocalProtocolError:
    message = f"a {type(wrapped).__name__} can't send the requests of an {client}"
    return LocalProtocolError(message, hint="a policy transport serves one client: give each its own")


class _Stream(httpx2.SyncByteStream):
    def __init__(self, pieces: Iterator[bytes], close: Callable[[], None]) -> None:
        self._pieces = pieces
        self._close = close

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._close()


class _AsyncStream(httpx2.AsyncByteStream):
    def __init__(self, pieces: AsyncIterator[bytes], aclose: Callable[[], Awaitable[None]]) -> None:
        self._pieces = pieces
        self._aclose = aclose

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        await self._aclose()


def _timed_out(error: TimedOutError) -> RequestTimedOutError:
    return RequestTimedOutError(error.message, maybe_executed=error.maybe_executed)


def _refused(error: UnavailableError) -> RequestRefusedError:
    return RequestRefusedError(
        error.message, target=error.target, reason=error.reason, retry_after_s=error.retry_after_s, hint=error.hint
    )


_LIBRARY: Final = Library(
    response=httpx2.Response,
    headers=httpx2.Headers,
    bytes_stream=httpx2.ByteStream,
    can_be_resent=lambda body: isinstance(body, httpx2.ByteStream),
    stream=_Stream,
    async_stream=_AsyncStream,
    timed_out=_timed_out,
    refused=_refused,
    cut=ResponseCutError,
)
