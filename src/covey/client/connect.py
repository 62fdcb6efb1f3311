"""A hub from afar: its roster, calls to its teammates, its streams.

What may be repeated without harm is repeated under the same key when nobody answered; what may have had an effect is
told so and left to the caller.

Source: protocol 2 and 3.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, TypeVar

import msgspec

from covey.client.address import Address
from covey.client.http import connect_error, cut, describe, new_http_client, problem_of
from covey.client.problems import Problem, error_of
from covey.client.sse import HUB_SILENCE_S, Change, subscribe
from covey.client.waiting import AsyncioWaiting, Waiting
from covey.errors import (
    CoveyError,
    ExpiredError,
    HubUnreachableError,
    InvalidInputError,
    RemoteProtocolError,
    TeammateLostError,
    TransientError,
)
from covey.ports.clock import Clock
from covey.ports.randomness import Randomness
from covey.ports.system import SystemClock, SystemRandomness
from covey.resilience.backoff import Backoff
from covey.wire.event_stream import ServerSentEvent
from covey.wire.names import check_name

if TYPE_CHECKING:
    from types import TracebackType

    import httpx2

T = TypeVar("T")

# A hub gives a plain call 60 s unless told otherwise; the answer may take a little on its way.
CALL_S: Final = 60.0
_ON_ITS_WAY_S: Final = 5.0
_KEY_LENGTH: Final = 32


class TeammateRow(msgspec.Struct, frozen=True):
    """One row of the roster."""

    name: str
    kind: str = ""
    state: str = ""
    place: str = ""
    stream: str = ""


class Spawned(msgspec.Struct, frozen=True):
    """A teammate that was made: its output is ``stream``, and all of it comes after ``cursor``."""

    name: str
    stream: str
    cursor: str


class Stopped(msgspec.Struct, frozen=True):
    """What stopping took."""

    name: str
    state: str = "stopped"
    steps: tuple[str, ...] = ()


class _Roster(msgspec.Struct):
    teammates: list[TeammateRow]


class _Result(msgspec.Struct):
    result: msgspec.Raw


class _Failure(NamedTuple):
    """Why an attempt brought nothing, and whether it may have had an effect."""

    error: CoveyError
    is_transient: bool
    may_have_run: bool


class Hub:
    """One hub; use it as ``async with``.

    Args:
        address: where it is, and the token.
        on_wait: is told before each wait for another attempt: why, and for how long in seconds.
        transport: what carries the requests in place of a connection.
    """

    def __init__(
        self,
        address: Address,
        *,
        on_wait: Callable[[CoveyError, float], None] | None = None,
        backoff: Backoff | None = None,
        clock: Clock | None = None,
        randomness: Randomness | None = None,
        waiting: Waiting | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.address = address
        self._on_wait = on_wait
        self._backoff = backoff or Backoff()
        self._clock = clock or SystemClock()
        self._randomness = randomness or SystemRandomness()
        self._waiting = waiting or AsyncioWaiting()
        self._transport = transport
        self._client = new_http_client(address.url, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def call(
        self,
        teammate: str,
        method: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float = CALL_S,
        key: str | None = None,
        attempts_max: int = 1,
        is_repeatable: bool = False,
    ) -> Any:  # noqa: ANN401 -- what a method returns is its own affair
        """Call a method and return its result.

        Args:
            teammate: its name.
            method: the method's name.
            arguments: by name; anything msgspec writes as JSON.
            timeout_s: for all attempts together. The hub is told what remains.
            key: the idempotency key, the same in every attempt; a new one unless given.
            attempts_max: how often it may be sent in all when the hub does not answer or refuses for now.
            is_repeatable: whether running twice does no harm, so that it is also repeated after an answer was lost.

        Raises:
            HubUnreachableError: nobody answers there.
            TeammateLostError: the answer was lost, or the teammate; ``maybe_executed`` says what is known.
            ExpiredError: no time remained.
            CoveyError: what the hub or the method answered; see ``covey.errors``.
        """
        check_name(teammate, what="the name of a teammate")
        until_s = self._clock.monotonic_s() + timeout_s
        headers = {"Idempotency-Key": key or self._randomness.token(_KEY_LENGTH)}
        body = await self._request(
            "POST", self.address.path("call", teammate, method), headers=headers, body=arguments or {},
            until_s=until_s, attempts_max=attempts_max, is_repeatable=is_repeatable,
        )  # fmt: skip
        return msgspec.json.decode(_decode(body, _Result).result)

    async def roster(self, *, attempts_max: int = 1) -> list[TeammateRow]:
        """Return who is there."""
        body = await self._plain("GET", self.address.path("teammates"), attempts_max=attempts_max)
        return _decode(body, _Roster).teammates

    async def teammate(self, name: str, *, attempts_max: int = 1) -> TeammateRow:
        """Return the row of one teammate.

        Raises:
            TeammateNotFoundError: there is none; near names are in the hint.
        """
        check_name(name, what="the name of a teammate")
        return _decode(
            await self._plain("GET", self.address.path("teammates", name), attempts_max=attempts_max), TeammateRow
        )

    async def spawn(self, kind: str, name: str | None = None) -> Spawned:
        """Make a teammate of a kind that the hub allows.

        Raises:
            NameTakenError: the name is in use.
        """
        wanted = {"kind": kind} if name is None else {"kind": kind, "name": name}
        url = self.address.path("teammates")
        return _decode(await self._request("POST", url, body=wanted, until_s=self._until_s(CALL_S)), Spawned)

    async def stop(self, name: str, *, timeout_s: float = 5.0, attempts_max: int = 1) -> Stopped:
        """Stop a teammate, the hard way after ``timeout_s``.

        Raises:
            TeammateNotFoundError: there is none; near names are in the hint.
        """
        check_name(name, what="the name of a teammate")
        url = f"{self.address.path('teammates', name)}?timeout_s={timeout_s:g}"
        # Stopping escalates once more after the time-out, and says in the answer what it took.
        until_s = self._until_s(2 * timeout_s + CALL_S)
        return _decode(await self._request("DELETE", url, until_s=until_s, attempts_max=attempts_max), Stopped)

    def subscribe(
        self,
        stream: str,
        *,
        after: str | None = None,
        start: Literal["now", "start"] = "now",
        on_change: Callable[[Change], None] | None = None,
    ) -> AsyncGenerator[ServerSentEvent, None]:
        """Yield the events of a stream; see ``covey.subscribe``."""
        return subscribe(
            self.address.path("streams", check_name(stream, what="the name of a stream")),
            token=self.address.token,
            after=after,
            start=start,
            silence_s=HUB_SILENCE_S,
            on_change=on_change,
            backoff=self._backoff,
            randomness=self._randomness,
            waiting=self._waiting,
            transport=self._transport,
        )

    def _until_s(self, timeout_s: float) -> float:
        return self._clock.monotonic_s() + timeout_s

    async def _plain(self, method: str, url: str, *, attempts_max: int) -> bytes:
        return await self._request(
            method, url, until_s=self._until_s(CALL_S), attempts_max=attempts_max, is_repeatable=True
        )

    async def _request(
        self,
        method: str,
        url: str,
        *,
        until_s: float,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        attempts_max: int = 1,
        is_repeatable: bool = False,
    ) -> bytes:
        content = None if body is None else _encode(body)
        failures = 0
        while True:
            answer = await self._attempt(method, url, content, dict(headers or {}), until_s)
            if isinstance(answer, bytes):
                return answer
            failures += 1
            can_repeat = answer.is_transient and (is_repeatable or not answer.may_have_run)
            if not can_repeat or failures >= attempts_max:
                raise answer.error
            await self._wait(answer.error, failures)

    async def _wait(self, error: CoveyError, failures: int) -> None:
        floor_s = error.retry_after_s if isinstance(error, TransientError) else None
        jitter = self._randomness.uniform(0.0, 1.0)
        delay_s = self._backoff.delay_s(failures, jitter=jitter, floor_s=floor_s or 0.0)
        if self._on_wait is not None:
            self._on_wait(error, delay_s)
        await self._waiting.sleep(delay_s)

    async def _attempt(
        self, method: str, url: str, content: bytes | None, headers: dict[str, str], until_s: float
    ) -> bytes | _Failure:
        """Send it once and return the body of a success, or what came instead."""
        import httpx2

        remaining_s = until_s - self._clock.monotonic_s()
        if remaining_s <= 0:
            message = "no time remained to ask the hub"
            raise ExpiredError(message)
        headers |= {"Accept": "application/json", **self.address.headers()}
        headers["Covey-Timeout-Ms"] = str(max(1, round(remaining_s * 1000)))
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            request = self._client.build_request(method, url, content=content, headers=headers)
            async with self._waiting.limit(remaining_s + _ON_ITS_WAY_S):
                response = await self._client.send(request, stream=True)
                if response.is_success:
                    return await response.aread()
                return _failure_of(await problem_of(response), has_token=self.address.token is not None)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            unreachable = connect_error(url, error)
            return _Failure(unreachable, isinstance(unreachable, HubUnreachableError), may_have_run=False)
        except TimeoutError:
            expired = ExpiredError(f"the hub did not answer within {remaining_s:.3g} s")
            return _Failure(expired, is_transient=False, may_have_run=True)
        except (httpx2.LocalProtocolError, httpx2.InvalidURL) as error:
            message = f"the request can't be sent: {describe(error)}"
            raise InvalidInputError(message) from error
        except httpx2.RequestError as error:
            lost = TeammateLostError(
                f"the answer was lost: {describe(cut(error))}",
                maybe_executed=True,
                hint="look at what it did before you repeat it",
            )
            return _Failure(lost, is_transient=True, may_have_run=True)


def _failure_of(problem: Problem, *, has_token: bool) -> _Failure:
    error = error_of(problem)
    if problem.status == 401:
        # The hub says how requests carry a token; here is known how this program gets one.
        error.hint = _REFUSED_HINT if has_token else _NOTHING_SENT_HINT
    is_lost = isinstance(error, TeammateLostError) and error.maybe_executed
    return _Failure(error, problem.is_transient, is_lost or isinstance(error, ExpiredError) or problem.status == 500)


_REFUSED_HINT: Final = "set COVEY_TOKEN to the part after '#token=' of the URL that the hub printed"
_NOTHING_SENT_HINT: Final = f"no token of this hub was found on this machine: {_REFUSED_HINT}"


def _decode(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"the answer is not a hub's: {error}"
        raise RemoteProtocolError(message, hint="check COVEY_URL: something else may listen there") from error


def _encode(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"the arguments cannot be written as JSON: {error}"
        raise InvalidInputError(message) from error
