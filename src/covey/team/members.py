"""The team: its members by name, and its roster as a stream.

So far members are made from kinds that the operator allows (``repl``) or are objects handed in; the roster's history is
the stream ``team``.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import msgspec

from covey.calls.schema import Method, methods_of
from covey.errors import InvalidInputError, NameTakenError, RefusedError, TeammateNotFoundError, near_hint
from covey.streams.event import encode_data
from covey.streams.streams import Streams
from covey.wire.names import check_own_name

MEMBERS_MAX: Final = 1000
# Streams of the team itself; a teammate of that name would answer for something it is not.
RESERVED_NAMES: Final = frozenset({"team", "board", "approvals"})


class StopReport(msgspec.Struct, frozen=True):
    """How a member was stopped: which steps it took, and how its process ended where it had one."""

    steps: tuple[str, ...] = ()
    exit: int | None = None
    signal: int | None = None


class Resident(Protocol):
    """A member that is more than an object: it has a life of its own, such as a process."""

    @property
    def state(self) -> str:
        """One word for the roster."""
        ...

    async def start(self) -> None:
        """Begin; returns when calls can be taken."""
        ...

    async def stop(self, *, timeout_s: float) -> StopReport:
        """End, escalating after ``timeout_s``, and say truthfully what it took."""
        ...


class Spawned(msgspec.Struct, frozen=True):
    """A member just made."""

    resident: Resident
    place: str
    methods: tuple[str, ...]  # of the object's public methods, those that may be called from outside


Spawn = Callable[[str], Awaitable[Spawned]]


class Member(msgspec.Struct, frozen=True):
    """One of the team."""

    name: str
    kind: str
    place: str
    methods: Mapping[str, Method]
    resident: Resident | None = None

    @property
    def stream(self) -> str:
        """The name of the stream that its own output goes to."""
        return f"{self.name}.out"

    @property
    def state(self) -> str:
        """One word for the roster."""
        return "ready" if self.resident is None else self.resident.state


class Team:
    """Members by name.

    Args:
        streams: where the roster and the members' output go.
        kinds: how members of each kind that may be spawned from outside are made.
    """

    def __init__(
        self, streams: Streams, *, kinds: Mapping[str, Spawn] | None = None, members_max: int = MEMBERS_MAX
    ) -> None:
        self.streams = streams
        self.kinds: Mapping[str, Spawn] = kinds or {}
        self.members_max = members_max
        self.is_draining = False
        self._members: dict[str, Member] = {}
        self._numbers: dict[str, itertools.count[int]] = {}
        self._roster = streams.stream("team", object, is_owned=True)

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> list[Member]:
        """Return all members, by name."""
        return [self._members[name] for name in sorted(self._members)]

    def add(self, name: str, teammate: object) -> Member:
        """Take in an object under a name.

        Raises:
            InvalidInputError: the name is malformed or reserved.
            NameTakenError: someone has it.
        """
        self._check_free(name)
        return self._admit(Member(name, type(teammate).__name__, "here", methods_of(teammate)))

    async def spawn(self, kind: str, name: str | None = None) -> Member:
        """Make a member of a kind the operator allowed; its name defaults to ``<kind>-<n>``.

        Raises:
            InvalidInputError: the name is malformed or reserved, or there is no such kind.
            NameTakenError: someone has the name.
            RefusedError: the team is full, or going away.
        """
        make = self.kinds.get(kind)
        if make is None:
            hint = (
                near_hint(difflib.get_close_matches(kind, self.kinds, n=1))
                or f"kinds: {', '.join(self.kinds) or 'none'}"
            )
            raise InvalidInputError(f"there is no kind {kind[:80]!r} to spawn", hint=hint)
        name = self._free_name(kind) if name is None else name
        self._check_free(name)
        self._members[name] = placeholder = Member(name, kind, "starting", {})
        try:
            spawned = await make(name)
        finally:
            if self._members.get(name) is placeholder:
                del self._members[name]
        resident = spawned.resident
        methods = methods_of(resident, only=spawned.methods)
        return self._admit(Member(name, kind, spawned.place, methods, resident))

    def get(self, name: str) -> Member:
        """Return the member of that name.

        Raises:
            TeammateNotFoundError: there is none; near names are in the hint.
        """
        member = self._members.get(name)
        if member is None:
            near = difflib.get_close_matches(name, self._members, n=3)
            raise TeammateNotFoundError(f"there is no teammate {name[:128]!r}", near=near)
        return member

    async def stop(self, name: str, *, timeout_s: float) -> StopReport:
        """Stop a member and let its name go.

        Raises:
            TeammateNotFoundError: there is none of that name.
        """
        member = self.get(name)
        report = StopReport() if member.resident is None else await member.resident.stop(timeout_s=timeout_s)
        if self._members.get(name) is member:  # two may stop the same one
            del self._members[name]
            self._tell("left", {"name": name, **msgspec.to_builtins(report)})
        return report

    def _admit(self, member: Member) -> Member:
        self._members[member.name] = member
        self._tell("joined", {"name": member.name, "kind": member.kind, "place": member.place, "stream": member.stream})
        return member

    def _tell(self, kind: str, data: object) -> None:
        if not self._roster.is_closed:
            self._roster.append_now(encode_data(data), kind=kind)

    def _check_free(self, name: str) -> None:
        check_own_name(name, what="a teammate's name")
        if name in RESERVED_NAMES:
            raise InvalidInputError(f"the name {name!r} is reserved", hint="choose another name")
        if self.is_draining:
            raise RefusedError("the hub is going away", retry_after_s=5.0)
        if name in self._members:
            raise NameTakenError(f"there is a teammate {name!r} already", hint="attach to it, or choose another name")
        if len(self._members) >= self.members_max:
            raise RefusedError(f"the team has {self.members_max} members already", retry_after_s=30.0, hint="stop some")

    def _free_name(self, kind: str) -> str:
        numbers = self._numbers.setdefault(kind, itertools.count(1))
        return next(name for number in numbers if (name := f"{kind}-{number}") not in self._members)
