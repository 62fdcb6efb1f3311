"""What a failure means: whether it may have had an effect, whether it is worth repeating, and whose fault it is.

The knowledge is in ``outcomes.json``, a row for each errno, status and error code, with its reason and its source;
users add rows of their own. What no row knows is not repeated. Errors of libraries are recognised by the names of
their classes and by the attributes that carry their codes, so that none of those libraries is imported here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final, Literal, cast

import msgspec

from covey.errors import InvalidInputError
from covey.resilience.hints import NOTHING_SAID, Hints, read_hints

Verdict = Literal["transient", "ambiguous", "throttled", "overloaded", "permanent", "cancelled", "local"]
Executed = Literal["no", "maybe", "yes"]
Wait = Literal["backoff", "hint", "immediate", "reconnect", "none"]
# How far an attempt got: nothing known, no byte of the request written, written, or some of the answer received.
Phase = Literal["unknown", "unsent", "sent", "delivered"]

VERDICTS: Final[Mapping[Verdict, str]] = {
    "cancelled": "the caller wants it no more; never repeated, never counted",
    "permanent": "the same call fails again",
    "ambiguous": "it may have had its effect; repeated only when that does no harm",
    "local": "a shortage or a refusal of this process; not the target's fault",
    "throttled": "a quota is used up; the target is well",
    "overloaded": "the target has too much to do",
    "transient": "it may work when tried again",
}
# From the most to the least restrictive, which decides where one failure shows several facts.
_RANK: Final = {verdict: rank for rank, verdict in enumerate(VERDICTS)}
_CHAIN_MAX: Final = 16
# Answers from these mean that the target is alive, whatever they say.
_ANSWERS: Final = frozenset({"http", "grpc", "sqlstate", "mysql", "redis", "mongodb", "llm", "aws", "websocket"})


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is known.

    Args:
        domain: what kind of key it is: ``errno``, ``http``, ``python`` (a class, ``package.Name``), ...
        key: the errno's name, the status, the class.
        verdict: what it means.
        executed: whether the call may have had its effect.
        wait: what to wait for before a repeat; "none" never repeats.
        counts: whether it is a failure of the target, which its breaker counts.
        reason: why, in one sentence.
        source: where that is written.
        defers: it only wraps another error; when that is known, it decides.
    """

    domain: str
    key: str
    verdict: Verdict
    executed: Executed
    wait: Wait
    counts: bool
    reason: str
    source: str = "yours"
    defers: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one failure means. ``matched`` names the row, and is empty when none knows the error."""

    verdict: Verdict
    executed: Executed
    wait: Wait
    counts: bool
    reason: str
    source: str = ""
    matched: str = ""
    retry_after_s: float | None = None
    # The target was there to answer, even if the answer was no.
    is_answer: bool = False


UNKNOWN: Final = Outcome(
    verdict="permanent",
    executed="maybe",
    wait="none",
    counts=False,
    reason="nothing is known about this error, and what is not known is not repeated",
)


class _File(msgspec.Struct):
    version: int
    rows: tuple[Row, ...]


class Outcomes:
    """A table of rows, immutable."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: Final = {(row.domain, row.key): row for row in rows}
        self._classes: Final = {_class_key(row.key): row for row in self._rows.values() if row.domain in _CLASSES}

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def extended(self, rows: Iterable[Row]) -> Outcomes:
        """Return a table with these rows too; they take the place of rows for the same thing."""
        return Outcomes([*self._rows.values(), *rows])

    def row(self, domain: str, key: str) -> Row | None:
        """Return what is known about a key."""
        return self._rows.get((domain, key))

    def classify(self, error: BaseException, *, phase: Phase = "unknown", wall_s: float = 0.0) -> Outcome:
        """Return what the error means.

        The outermost error that is known decides; what is not known is judged by its cause. In a group, the most
        restrictive of its errors decides.

        Args:
            error: any exception.
            phase: how far the attempt got, where that is known.
            wall_s: seconds since 1970, to read a date in ``Retry-After`` by.
        """
        outcome = _heeding(self._of_chain(error), error, wall_s)
        return at_phase(outcome, phase)

    def classify_status(self, status: int, headers: Mapping[str, str], *, wall_s: float = 0.0) -> Outcome | None:
        """Return what an HTTP answer means that no exception was raised for; None when it is no failure."""
        if status < 400:
            return None
        row = self.row("http", str(status)) or self.row("http", "500" if status >= 500 else "400")
        outcome = outcome_of(row) if row is not None else UNKNOWN
        return _hinted(outcome, read_hints(headers, wall_s=wall_s))

    def _of_chain(self, error: BaseException) -> Outcome:
        deferring: Outcome | None = None
        is_implied = False
        link: BaseException | None = error
        for _ in range(_CHAIN_MAX):
            if link is None:
                break
            found = self._of_one(link)
            # A cancellation further down was turned into this error by whoever set a limit: `asyncio.timeout` does.
            if found is not None and (link is error or found.verdict != "cancelled"):
                if not found.defers:
                    return _implied(found.outcome) if is_implied else found.outcome
                deferring = deferring or found.outcome
            if link.__cause__ is not None:
                link = link.__cause__
            else:
                # Raised while that was being handled, perhaps about something else: so it may have run.
                link, is_implied = (None if link.__suppress_context__ else link.__context__), True
        return deferring or UNKNOWN

    def _of_one(self, error: BaseException) -> _Found | None:
        if isinstance(error, BaseExceptionGroup):
            leaves = cast("BaseExceptionGroup[BaseException]", error).exceptions
            return _Found(min((self._of_chain(leaf) for leaf in leaves), key=_rank), defers=False)
        rows = [row for fact in _codes(error) if (row := self._row_of_code(*fact)) is not None]
        if rows:
            return _found(min(rows, key=lambda row: _RANK[row.verdict]))
        if isinstance(error, OSError) and not _has_own_codes(error):
            row = self.row("errno", errno.errorcode.get(error.errno or 0, ""))
            if row is not None:
                return _found(row)
        for class_ in type(error).__mro__:
            row = self._classes.get((class_.__module__.partition(".")[0], class_.__name__))
            if row is not None:
                return _found(row)
        return None

    def _row_of_code(self, domain: str, key: str) -> Row | None:
        row = self._rows.get((domain, key))
        if row is not None:
            return row
        if domain == "sqlstate":
            return self._rows.get((domain, key[:2] + "000"))
        if domain == "sqlite":
            return self._rows.get((domain, "_".join(key.split("_")[:2])))
        if domain == "http" and key.isdigit():
            return self._rows.get((domain, "500" if key >= "500" else "400"))
        return None


class _Found(msgspec.Struct, frozen=True):
    outcome: Outcome
    defers: bool

    @property
    def verdict(self) -> Verdict:
        return self.outcome.verdict


@cache
def shipped() -> Outcomes:
    """Return the table that comes with covey. It is read when something fails for the first time."""
    text = Path(__file__).with_name("outcomes.json").read_bytes()
    return Outcomes(msgspec.json.decode(text, type=_File).rows)


def explain(error: BaseException, *, phase: Phase = "unknown") -> Outcome:
    """Return what the shipped table says about an error: verdict, reason, source."""
    return shipped().classify(error, phase=phase)


def at_phase(outcome: Outcome, phase: Phase) -> Outcome:
    """Return what it means given how far the attempt got, which says more than any code."""
    if phase == "unsent" and outcome.executed != "no":
        verdict: Verdict = "transient" if outcome.verdict == "ambiguous" else outcome.verdict
        wait: Wait = "backoff" if outcome.verdict == "ambiguous" and outcome.wait == "none" else outcome.wait
        return msgspec.structs.replace(outcome, verdict=verdict, executed="no", wait=wait)
    if phase == "delivered" and outcome.verdict not in {"permanent", "cancelled"}:
        # Some of the answer is out: from here one resumes where it stopped, or says so, but never starts again.
        known: Verdict = "ambiguous" if outcome.verdict == "transient" else outcome.verdict
        return msgspec.structs.replace(outcome, verdict=known, executed="yes", wait="none")
    return outcome


def outcome_of(row: Row) -> Outcome:
    """Return what a row means for an error that shows no more than that."""
    return Outcome(
        verdict=row.verdict,
        executed=row.executed,
        wait=row.wait,
        counts=row.counts,
        reason=row.reason,
        source=row.source,
        matched=f"{row.domain} {row.key}",
        is_answer=row.domain in _ANSWERS and not row.counts,
    )


def _found(row: Row) -> _Found:
    return _Found(outcome_of(row), defers=row.defers)


def _rank(outcome: Outcome) -> int:
    return _RANK[outcome.verdict]


def _implied(outcome: Outcome) -> Outcome:
    if outcome.executed != "no":
        return outcome
    verdict: Verdict = "ambiguous" if outcome.verdict == "transient" else outcome.verdict
    return msgspec.structs.replace(outcome, verdict=verdict, executed="maybe")


# ---- what an error shows


def _heeding(outcome: Outcome, error: BaseException, wall_s: float) -> Outcome:
    """Return the outcome with what the error itself says about when to come back and whether it ran."""
    maybe = getattr(error, "maybe_executed", None)
    if maybe is False:
        outcome = at_phase(outcome, "unsent")
    elif maybe is True and outcome.executed == "no":
        outcome = msgspec.structs.replace(outcome, executed="maybe")
    after_s = getattr(error, "retry_after_s", getattr(error, "retry_after", None))
    if isinstance(after_s, (int, float)) and not isinstance(after_s, bool) and 0 <= after_s < float("inf"):
        return msgspec.structs.replace(outcome, retry_after_s=float(after_s))
    headers = _headers(error)
    return _hinted(outcome, read_hints(headers, wall_s=wall_s)) if headers else outcome


def _hinted(outcome: Outcome, hints: Hints) -> Outcome:
    if hints is NOTHING_SAID or outcome.verdict == "cancelled":
        return outcome
    if hints.is_final:
        return msgspec.structs.replace(
            outcome, wait="none", reason="the other end asked not to be asked again", retry_after_s=hints.retry_after_s
        )
    if hints.is_welcome and outcome.wait == "none":
        outcome = msgspec.structs.replace(
            outcome, verdict="ambiguous", executed="maybe", wait="hint", reason="the other end asked to be asked again"
        )
    return msgspec.structs.replace(outcome, retry_after_s=hints.retry_after_s)


_CLASSES: Final = frozenset({"python", "ssl"})


def _class_key(name: str) -> tuple[str, str]:
    """Return (top package, class): modules inside a library move, its name and that of the class don't."""
    package, _, last = name.rpartition(".")
    if package:
        return package.partition(".")[0], last
    return ("ssl" if last.startswith("SSL") else "builtins"), last


def _root(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _attribute(value: object, name: str) -> object:
    """Return an attribute of a foreign object, None also where reading it raises."""
    try:
        found: object = getattr(value, name, None)
    except Exception:  # noqa: BLE001 -- a property of somebody else's error; httpx raises RuntimeError from one
        return None
    return found


def _mapping(value: object) -> Mapping[object, object]:
    return cast("Mapping[object, object]", value) if isinstance(value, Mapping) else {}


def _headers(error: BaseException) -> dict[str, str]:
    """Return the headers of the answer that an error is about, and gRPC's trailing metadata."""
    for holder in (_attribute(error, "response"), error):
        headers = _mapping(_attribute(holder, "headers"))
        if headers:
            return {str(name): str(value) for name, value in headers.items()}
    response = _mapping(_mapping(_attribute(error, "response")).get("ResponseMetadata"))
    if response:
        return {str(name): str(value) for name, value in _mapping(response.get("HTTPHeaders")).items()}
    trailing = _called(error, "trailing_metadata")
    if isinstance(trailing, Iterable):
        pairs = [tuple(entry) for entry in cast("Iterable[Iterable[object]]", trailing)]
        return {str(pair[0]): str(pair[1]) for pair in pairs if len(pair) == 2}
    return {}


def _called(value: object, name: str) -> object:
    method = _attribute(value, name)
    if not callable(method):
        return None
    try:
        answer: object = cast("Callable[[], object]", method)()
    except Exception:  # noqa: BLE001 -- as above
        return None
    return answer


def _codes(error: BaseException) -> Iterator[tuple[str, str]]:
    """Give the codes that an error carries, each with its domain."""
    for read in _CODES:
        yield from read(error)


def _has_own_codes(error: OSError) -> bool:
    """Tell whether ``errno`` is a number of another kind: of TLS, or of name resolution."""
    return any(class_.__name__ in {"SSLError", "gaierror", "herror"} for class_ in type(error).__mro__)


def _http_codes(error: BaseException) -> Iterator[tuple[str, str]]:
    response = _attribute(error, "response")
    holders = (error, response)
    names = ("status_code", "status", "code") if _root(error) == "urllib" else ("status_code", "status")
    for holder in holders:
        for name in names:
            status = _attribute(holder, name)
            if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
                yield "http", str(int(status))
                return


def _llm_codes(error: BaseException) -> Iterator[tuple[str, str]]:
    if _root(error) in {"openai", "anthropic"}:
        yield "llm", type(error).__name__
    body = _mapping(_attribute(error, "body"))
    for holder in (body, _mapping(body.get("error"))):
        for name in ("type", "code"):
            code = holder.get(name)
            if isinstance(code, str):
                yield "llm", code
    for name in ("type", "code"):
        code = _attribute(error, name)
        if isinstance(code, str):
            yield "llm", code


def _grpc_codes(error: BaseException) -> Iterator[tuple[str, str]]:
    name = _attribute(_called(error, "code"), "name")
    if isinstance(name, str):
        yield "grpc", name


def _aws_codes(error: BaseException) -> Iterator[tuple[str, str]]:
    code = _mapping(_mapping(_attribute(error, "response")).get("Error")).get("Code")
    if isinstance(code, str):
        yield "aws", code


def _database_codes(error: BaseException) -> Iterator[tuple[str, str]]:
    for name in ("sqlstate", "pgcode"):
        state = _attribute(error, name)
        if isinstance(state, str):
            yield "sqlstate", state
    sqlite_name = _attribute(error, "sqlite_errorname")
    if isinstance(sqlite_name, str):
        yield "sqlite", sqlite_name
    root = _root(error)
    if root in {"pymysql", "MySQLdb", "aiomysql", "asyncmy", "mysql"} and error.args:
        number = _attribute(error, "errno") if root == "mysql" else error.args[0]
        yield "mysql", str(number)
    if root == "redis":
        yield "redis", _REDIS.get(type(error).__name__) or str(error).partition(" ")[0]
    has_label = _attribute(error, "has_error_label")
    if callable(has_label):
        labels = ("RetryableWriteError", "TransientTransactionError", "RetryableError", "SystemOverloadedError")
        yield from (("mongodb", label) for label in labels if has_label(label))


# redis-py takes the code off the message of the errors it has a class for.
_REDIS: Final = {
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "OutOfMemoryError": "OOM",
    "MaxConnectionsError": "MAXCLIENTS",
    "AuthenticationError": "NOAUTH",
    "NoPermissionError": "NOPERM",
}


def _websocket_codes(error: BaseException) -> Iterator[tuple[str, str]]:
    if _root(error) == "websockets":
        received = _attribute(_attribute(error, "rcvd"), "code")
        yield "websocket", str(received if isinstance(received, int) else 1006)


def _http2_codes(error: BaseException) -> Iterator[tuple[str, str]]:
    name = _attribute(_attribute(error, "error_code"), "name")
    if isinstance(name, str) and _root(error) in {"h2", "httpcore", "hyper"}:
        yield "http2", name


def _dns_codes(error: BaseException) -> Iterator[tuple[str, str]]:
    if any(class_.__name__ == "gaierror" for class_ in type(error).__mro__) and error.args:
        name = _DNS.get(error.args[0])
        if name is not None:
            yield "dns", name


# The numbers of getaddrinfo differ: glibc's are negative, BSD's and macOS's small, those of Windows are Winsock's.
_DNS: Final[Mapping[object, str]] = {
    -2: "EAI_NONAME",
    -3: "EAI_AGAIN",
    -4: "EAI_FAIL",
    -5: "EAI_NODATA",
    -6: "EAI_FAMILY",
    -8: "EAI_SERVICE",
    -10: "EAI_MEMORY",
    -11: "EAI_SYSTEM",
    2: "EAI_AGAIN",
    4: "EAI_FAIL",
    5: "EAI_FAMILY",
    6: "EAI_MEMORY",
    7: "EAI_NODATA",
    8: "EAI_NONAME",
    9: "EAI_SERVICE",
    11: "EAI_SYSTEM",
    11001: "EAI_NONAME",
    11002: "EAI_AGAIN",
    11003: "EAI_FAIL",
    11004: "EAI_NODATA",
}

_CODES: Final[tuple[Callable[[BaseException], Iterator[tuple[str, str]]], ...]] = (
    _dns_codes,
    _http_codes,
    _llm_codes,
    _grpc_codes,
    _aws_codes,
    _database_codes,
    _websocket_codes,
    _http2_codes,
)


def row_of_user(
    key: str,
    verdict: Verdict,
    *,
    executed: Executed = "maybe",
    wait: Wait = "backoff",
    counts: bool = True,
    reason: str = "you said so",
) -> Row:
    """Return a row about a class of yours, ``package.Name``.

    Raises:
        InvalidInputError: the verdict is none of ``VERDICTS``.
    """
    if verdict not in VERDICTS:
        message = f"the verdict is {verdict!r}, and must be one of {', '.join(VERDICTS)}"
        raise InvalidInputError(message)
    return Row(domain="python", key=key, verdict=verdict, executed=executed, wait=wait, counts=counts, reason=reason)
