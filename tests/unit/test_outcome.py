"""`resilience/outcome.py`, `hints.py` and `search.py`: what errors of all kinds mean."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import concurrent.futures.process
import errno
import http
import socket
import sqlite3
import ssl
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import (
    CoveyError,
    ExpiredError,
    HubUnreachableError,
    InvalidInputError,
    RefusedError,
    TeammateLostError,
    TransientError,
    UnavailableError,
)
from covey.resilience.hints import Hints, read_hints
from covey.resilience.outcome import UNKNOWN, VERDICTS, Outcome, Phase, explain, row_of_user, shipped
from covey.resilience.search import rows_about

WALL_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def foreign(module: str, name: str, /, **attributes: object) -> BaseException:
    """Return an error as a library would raise it that is not installed here."""
    error: BaseException = type(name, (Exception,), {"__module__": module, **attributes})("it failed")
    return error


def chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


class Code:
    def __init__(self, name: str) -> None:
        self.name = name


class Response:
    def __init__(self, status_code: int, **headers: str) -> None:
        self.status_code = status_code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def meaning(error: BaseException, *, phase: Phase = "unknown") -> tuple[str, str, str]:
    outcome = explain(error, phase=phase)
    return outcome.verdict, outcome.executed, outcome.wait


# ---- the table


@pytest.mark.requirement("resilience.outcome.table")
def test_the_table_is_large_and_each_row_has_a_reason_and_a_source() -> None:
    rows = list(shipped())
    assert len(rows) >= 291
    assert len({(row.domain, row.key) for row in rows}) == len(rows)
    assert all(row.reason and row.source for row in rows)
    assert all(row.verdict in VERDICTS for row in rows)


@pytest.mark.requirement("resilience.outcome.table")
def test_its_keys_exist_where_they_are_said_to() -> None:
    by_domain: dict[str, set[str]] = {}
    for row in shipped():
        by_domain.setdefault(row.domain, set()).add(row.key)
    assert {name for name in by_domain["errno"] if not hasattr(errno, name)} == set()
    assert {name for name in by_domain["ssl"] if not hasattr(ssl, name)} == set()
    assert {name for name in by_domain["dns"] if not hasattr(socket, name)} == set()
    statuses = {str(int(status)) for status in http.HTTPStatus if status >= 400}
    assert statuses - by_domain["http"] == {"418", "506", "508", "510"}
    plain = {key for key in by_domain["python"] if "." not in key}
    assert {name for name in plain if not hasattr(builtins, name)} == set()


@pytest.mark.requirement("resilience.outcome.table")
def test_cancelled_and_permanent_rows_are_never_repeated_and_cancelled_ones_never_count() -> None:
    for row in shipped():
        if row.verdict in {"cancelled", "permanent"}:
            assert row.wait == "none", row
        if row.verdict in {"cancelled", "local", "throttled"}:
            assert not row.counts, row
        if row.verdict in {"throttled", "overloaded"}:
            assert row.executed == "no", row


# ---- errors


CASES: list[tuple[BaseException, tuple[str, str, str]]] = [
    (OSError(errno.ECONNREFUSED, "x"), ("transient", "no", "backoff")),
    (OSError(errno.EMFILE, "x"), ("local", "no", "backoff")),
    (OSError(errno.EHOSTUNREACH, "x"), ("transient", "no", "backoff")),
    (ConnectionRefusedError(), ("transient", "no", "backoff")),
    (ConnectionResetError(), ("ambiguous", "maybe", "reconnect")),
    (BrokenPipeError(errno.EPIPE, "x"), ("ambiguous", "maybe", "reconnect")),
    (TimeoutError(), ("ambiguous", "maybe", "backoff")),
    (TimeoutError(errno.ETIMEDOUT, "x"), ("ambiguous", "maybe", "backoff")),
    (OSError("no number"), ("permanent", "maybe", "none")),
    (socket.gaierror(socket.EAI_AGAIN, "x"), ("transient", "no", "backoff")),
    (socket.gaierror(socket.EAI_NONAME, "x"), ("permanent", "no", "none")),
    (ssl.SSLCertVerificationError(1, "x"), ("permanent", "no", "none")),
    (ssl.SSLEOFError(8, "x"), ("ambiguous", "maybe", "reconnect")),
    (asyncio.CancelledError(), ("cancelled", "maybe", "none")),
    (KeyboardInterrupt(), ("cancelled", "maybe", "none")),
    (asyncio.IncompleteReadError(b"", 5), ("ambiguous", "maybe", "reconnect")),
    (concurrent.futures.process.BrokenProcessPool(), ("ambiguous", "maybe", "backoff")),
    (concurrent.futures.BrokenExecutor(), ("ambiguous", "maybe", "backoff")),
    (UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), ("permanent", "maybe", "none")),
    (LookupError(), ("permanent", "maybe", "none")),
    (httpx2.ConnectError("x"), ("transient", "no", "backoff")),
    (httpx2.ConnectTimeout("x"), ("transient", "no", "backoff")),
    (httpx2.ReadTimeout("x"), ("ambiguous", "maybe", "backoff")),
    (httpx2.PoolTimeout("x"), ("local", "no", "backoff")),
    (foreign("aiohttp.client_exceptions", "ServerDisconnectedError"), ("ambiguous", "maybe", "reconnect")),
    (foreign("requests.exceptions", "ConnectTimeout"), ("transient", "no", "backoff")),
    (foreign("x", "HTTPStatusError", response=Response(503)), ("overloaded", "no", "hint")),
    (foreign("x", "HTTPStatusError", response=Response(599)), ("ambiguous", "maybe", "backoff")),
    (foreign("x", "HTTPStatusError", response=Response(418)), ("permanent", "no", "none")),
    (foreign("aiohttp.x", "ClientResponseError", status=429), ("throttled", "no", "hint")),
    (foreign("urllib.error", "HTTPError", code=502), ("ambiguous", "maybe", "backoff")),
    (foreign("openai", "RateLimitError", status_code=429, code="insufficient_quota"), ("permanent", "no", "none")),
    (foreign("openai", "RateLimitError", status_code=429, code="rate_limit_exceeded"), ("throttled", "no", "hint")),
    (
        foreign("anthropic", "APIStatusError", status_code=529, body={"error": {"type": "overloaded_error"}}),
        ("overloaded", "no", "hint"),
    ),
    (foreign("openai", "APIError", type="server_error", body=None), ("ambiguous", "maybe", "backoff")),
    (foreign("openai", "APITimeoutError"), ("ambiguous", "yes", "none")),
    (foreign("openai", "APIConnectionError"), ("ambiguous", "maybe", "reconnect")),
    (foreign("grpc.aio", "AioRpcError", code=lambda _: Code("UNAVAILABLE")), ("transient", "maybe", "hint")),
    (foreign("grpc.aio", "AioRpcError", code=lambda _: Code("DATA_LOSS")), ("permanent", "maybe", "none")),
    (
        foreign("botocore", "ClientError", response={"Error": {"Code": "ThrottlingException"}}),
        ("throttled", "no", "hint"),
    ),
    (foreign("psycopg", "OperationalError", sqlstate="40001"), ("transient", "no", "backoff")),
    (foreign("asyncpg", "PostgresError", sqlstate="22012"), ("permanent", "no", "none")),
    (foreign("psycopg2", "OperationalError", pgcode="57P01"), ("transient", "maybe", "reconnect")),
    (foreign("redis.exceptions", "ReadOnlyError"), ("transient", "no", "backoff")),
    (
        foreign("pymongo", "OpError", has_error_label=lambda _, label: label == "RetryableWriteError"),
        ("transient", "maybe", "backoff"),
    ),
    (foreign("websockets.exceptions", "ConnectionClosedError", rcvd=None), ("transient", "maybe", "reconnect")),
    (TransientError("x"), ("transient", "maybe", "hint")),
    (HubUnreachableError("x"), ("transient", "no", "hint")),
    (RefusedError("x"), ("overloaded", "no", "hint")),
    (ExpiredError("x"), ("permanent", "no", "none")),
    (UnavailableError("x", target="t", reason="circuit_open"), ("local", "no", "none")),
    (TeammateLostError("x", maybe_executed=True), ("ambiguous", "maybe", "backoff")),
    (TeammateLostError("x", maybe_executed=False), ("transient", "no", "backoff")),
    (CoveyError("x"), ("permanent", "maybe", "none")),
]


@pytest.mark.requirement("resilience.outcome.known")
@pytest.mark.parametrize(("error", "expected"), CASES, ids=lambda value: repr(value)[:60])
def test_what_is_known_about_an_error(error: BaseException, expected: tuple[str, str, str]) -> None:
    assert meaning(error) == expected


@pytest.mark.requirement("resilience.outcome.known")
def test_mysql_and_sqlite_carry_their_codes_in_places_of_their_own() -> None:
    error = foreign("pymysql.err", "OperationalError")
    error.args = (1213, "Deadlock found")
    assert meaning(error) == ("transient", "no", "backoff")
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorname = "SQLITE_BUSY_SNAPSHOT"
    assert meaning(busy) == ("transient", "no", "backoff")


@pytest.mark.requirement("resilience.retry.unknown-is-final")
def test_what_is_not_known_is_permanent() -> None:
    assert explain(foreign("mylib", "OddError")) == UNKNOWN
    assert explain(Exception()) == UNKNOWN


@pytest.mark.requirement("resilience.outcome.chain")
def test_an_unknown_error_is_judged_by_its_cause_a_known_one_by_itself() -> None:
    assert meaning(chained(foreign("mylib", "Wrapped"), OSError(errno.ECONNREFUSED, "x"))) == (
        "transient",
        "no",
        "backoff",
    )
    assert meaning(chained(ValueError(), OSError(errno.ECONNREFUSED, "x")))[0] == "permanent"
    # This is how `asyncio.timeout` raises: the cancellation in it is not the caller's.
    assert meaning(chained(TimeoutError(), asyncio.CancelledError()))[0] == "ambiguous"
    assert explain(chained(foreign("mylib", "SlowError"), asyncio.CancelledError())) == UNKNOWN
    connection = chained(foreign("openai", "APIConnectionError"), httpx2.ConnectError("x"))
    assert meaning(connection) == ("transient", "no", "backoff")


@pytest.mark.requirement("resilience.outcome.chain")
def test_an_error_raised_while_another_was_handled_may_be_about_something_else() -> None:
    async def refuse() -> None:
        raise OSError(errno.ECONNREFUSED, "the first server")

    def caught() -> BaseException:
        try:
            try:
                asyncio.run(refuse())
            except OSError:
                raise foreign("mylib", "SecondServerError")  # noqa: B904 -- what this is about
        except Exception as error:  # noqa: BLE001 -- it is what is looked at
            return error
        raise AssertionError

    assert meaning(caught()) == ("ambiguous", "maybe", "backoff")


@pytest.mark.requirement("resilience.outcome.chain")
def test_of_a_group_the_most_restrictive_counts() -> None:
    refused, timed_out = OSError(errno.ECONNREFUSED, "x"), TimeoutError()
    assert meaning(ExceptionGroup("all", [refused, refused]))[0] == "transient"
    assert meaning(ExceptionGroup("all", [refused, timed_out]))[0] == "ambiguous"
    assert meaning(ExceptionGroup("all", [refused, ExceptionGroup("some", [ValueError()])]))[0] == "permanent"
    assert meaning(BaseExceptionGroup("all", [refused, asyncio.CancelledError()]))[0] == "cancelled"


@pytest.mark.requirement("resilience.outcome.phase")
def test_how_far_an_attempt_got_says_more_than_the_error() -> None:
    reset = OSError(errno.ECONNRESET, "x")
    assert meaning(reset, phase="unsent") == ("transient", "no", "reconnect")
    assert meaning(reset, phase="sent") == ("ambiguous", "maybe", "reconnect")
    assert meaning(reset, phase="delivered") == ("ambiguous", "yes", "none")
    assert meaning(RefusedError("full"), phase="delivered") == ("overloaded", "yes", "none")
    assert meaning(ValueError(), phase="unsent")[0] == "permanent"
    assert meaning(asyncio.CancelledError(), phase="delivered")[0] == "cancelled"


@pytest.mark.requirement("resilience.outcome.rows")
def test_users_add_rows() -> None:
    quota = foreign("myapp.billing", "QuotaError")
    table = shipped().extended([row_of_user("myapp.QuotaError", "throttled", executed="no", wait="hint")])
    assert (table.classify(quota).verdict, table.classify(quota).source) == ("throttled", "yours")
    assert shipped().classify(quota) == UNKNOWN
    with pytest.raises(InvalidInputError, match="verdict"):
        row_of_user("x", "sometimes")  # type: ignore[arg-type]


@pytest.mark.requirement("resilience.outcome.known")
def test_attributes_that_raise_when_read_are_no_obstacle() -> None:
    def broken(self: object) -> object:
        raise RuntimeError("the request was not set")

    error = foreign("httpx", "ReadError", response=property(broken), body=property(broken), code=property(broken))
    assert meaning(error)[0] == "ambiguous"


@pytest.mark.requirement("resilience.outcome.status")
def test_an_answer_that_raised_nothing_is_classified_by_its_status() -> None:
    table = shipped()
    assert table.classify_status(200, {}) is None
    assert table.classify_status(302, {}) is None
    answer = table.classify_status(503, {"retry-after": "7"})
    assert answer is not None
    assert (answer.verdict, answer.retry_after_s) == ("overloaded", 7.0)
    unheard = table.classify_status(599, {})
    assert unheard is not None
    assert unheard.verdict == "ambiguous"


@pytest.mark.requirement("resilience.outcome.status")
def test_a_target_that_says_no_is_alive() -> None:
    def answered(outcome: Outcome | None) -> bool:
        return outcome is not None and outcome.is_answer

    assert answered(shipped().classify_status(404, {}))
    assert answered(shipped().classify_status(429, {}))
    assert not answered(shipped().classify_status(500, {}))
    assert not answered(explain(ValueError()))


# ---- hints


HINTS: list[tuple[dict[str, str], Hints]] = [
    ({}, Hints()),
    ({"Retry-After": "120"}, Hints(120.0)),
    ({"retry-after": " 0.5 "}, Hints(0.5)),
    ({"Retry-After": "Thu, 01 Jan 2026 00:00:30 GMT"}, Hints(30.0)),
    ({"Retry-After": "Wed, 31 Dec 2025 00:00:30 GMT"}, Hints(0.0)),
    ({"Retry-After": "-5"}, Hints()),
    ({"Retry-After": "soon"}, Hints()),
    ({"Retry-After": "nan"}, Hints()),
    ({"retry-after-ms": "1500", "retry-after": "2"}, Hints(1.5)),
    ({"x-ms-retry-after-ms": "250"}, Hints(0.25)),
    ({"grpc-retry-pushback-ms": "100"}, Hints(0.1)),
    ({"grpc-retry-pushback-ms": "-1"}, Hints(None, is_final=True)),
    ({"grpc-retry-pushback-ms": "never"}, Hints(None, is_final=True)),
    ({"x-should-retry": "false", "retry-after": "3"}, Hints(3.0, is_final=True)),
    ({"x-should-retry": "true"}, Hints(None, is_welcome=True)),
    ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0.5s"}, Hints(360.5)),
    (
        {
            "x-ratelimit-reset-requests": "8s",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-tokens": "6m0s",
            "x-ratelimit-remaining-tokens": "5000",
        },
        Hints(8.0),
    ),
    ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "5000"}, Hints()),
    ({"anthropic-ratelimit-requests-reset": "2026-01-01T00:00:12Z"}, Hints(12.0)),
    ({"ratelimit-reset": "15"}, Hints(15.0)),
    ({"x-ratelimit-reset": str(int(WALL_S) + 40)}, Hints(40.0)),
]


@pytest.mark.requirement("resilience.hint.forms")
@pytest.mark.parametrize(("headers", "expected"), HINTS, ids=str)
def test_hints_in_every_form(headers: dict[str, str], expected: Hints) -> None:
    hints = read_hints(headers, wall_s=WALL_S)
    assert hints == expected


@pytest.mark.requirement("resilience.hint.forms")
@given(st.dictionaries(st.sampled_from(sorted({name for headers, _ in HINTS for name in headers})), st.text()))
def test_whatever_the_headers_say_a_wait_is_finite_and_not_negative(headers: dict[str, str]) -> None:
    after_s = read_hints(headers, wall_s=WALL_S).retry_after_s
    assert after_s is None or 0.0 <= after_s < float("inf")


@pytest.mark.requirement("resilience.hint.forms")
def test_hints_are_found_on_errors() -> None:
    def hint(error: BaseException) -> tuple[float | None, str]:
        outcome = shipped().classify(error, wall_s=WALL_S)
        return outcome.retry_after_s, outcome.wait

    assert hint(RefusedError("x", retry_after_s=3.0)) == (3.0, "hint")
    assert hint(foreign("discord", "Limited", retry_after=2)) == (2.0, "none")
    assert hint(foreign("x", "E", response=Response(429, retry_after="9"))) == (9.0, "hint")
    assert hint(foreign("x", "E", response=Response(503, x_should_retry="false"))) == (None, "none")
    assert hint(foreign("x", "E", response=Response(400, x_should_retry="true"))) == (None, "hint")
    pushback: Callable[[object], object] = lambda _: (("grpc-retry-pushback-ms", "40"),)  # noqa: E731
    rpc = foreign("grpc.aio", "AioRpcError", code=lambda _: Code("UNAVAILABLE"), trailing_metadata=pushback)
    assert hint(rpc) == (0.04, "hint")
    aws: dict[str, Any] = {
        "Error": {"Code": "SlowDown"},
        "ResponseMetadata": {"HTTPHeaders": {"retry-after": "4"}},
    }
    assert hint(foreign("botocore", "ClientError", response=aws)) == (4.0, "hint")


# ---- search


@pytest.mark.requirement("cli.why")
@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("503", "http 503"),
        ("HTTP/1.1 503 Service Unavailable", "http 503"),
        ("ECONNRESET", "errno ECONNRESET"),
        ("econnreset", "errno ECONNRESET"),
        (f"[Errno {errno.ECONNREFUSED}] Connect call failed", "errno ECONNREFUSED"),
        ("OSError: Connection reset by peer", "errno ECONNRESET"),
        ("httpx.ReadTimeout", "python httpx.ReadTimeout"),
        ("ReadTimeout", "python httpx.ReadTimeout"),
        ("asyncio.exceptions.CancelledError", "python asyncio.CancelledError"),
        ("{'type': 'overloaded_error'}", "llm overloaded_error"),
        ("ERROR: 40001 could not serialize", "sqlstate 40001"),
        (str(errno.ECONNRESET), "errno ECONNRESET"),
    ],
)
def test_a_text_is_found_in_the_table(text: str, first: str) -> None:
    rows = rows_about(text, shipped())
    assert f"{rows[0].domain} {rows[0].key}" == first


@pytest.mark.requirement("cli.why")
@pytest.mark.parametrize("text", ["", "please ask the busy bees", "foo", "7", "an unknown internal matter"])
def test_prose_is_not_mistaken_for_codes(text: str) -> None:
    assert rows_about(text, shipped()) == []
