"""All streams of a program, by name."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from covey.errors import InvalidInputError, NameTakenError, RefusedError, StreamNotFoundError
from covey.ports.system import SystemClock, SystemRandomness
from covey.streams.durable import DurableStream, restore
from covey.streams.retention import Overflow, Retention
from covey.streams.ring import Ring
from covey.streams.stream import Stream
from covey.wire.names import check_name

if TYPE_CHECKING:
    from types import TracebackType

    from covey.ports.clock import Clock
    from covey.ports.engine import Engine
    from covey.ports.randomness import Randomness

D = TypeVar("D")

# Six characters of 36: two runs of the same stream get the same epoch once in two thousand million.
EPOCH_LENGTH: Final = 6
ENDED_MAX: Final = 1000
# What ended streams may hold together; the transcripts of a few stopped sessions would fill a small machine.
ENDED_BYTES_MAX: Final = 256 << 20
# Names looked at for near ones to a name that is not there: looking at 100,000 would hold up everybody for a second.
NEAR_NAMES_MAX: Final = 1000


class Streams:
    """Streams by name; usable alone, without a team.

    Args:
        engine: keeps durable streams; entered and left with the block.
        streams_max: how many streams there may be at once.
        ended_kept_s: for how long a stream that ended can still be read.
        clock: where time comes from.
        randomness: where epochs come from.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        streams_max: int = 100_000,
        ended_kept_s: float = 3600.0,
        clock: Clock | None = None,
        randomness: Randomness | None = None,
    ) -> None:
        self.engine = engine
        self.streams_max = streams_max
        self.ended_kept_s = ended_kept_s
        self.clock: Clock = clock or SystemClock()
        self.randomness: Randomness = randomness or SystemRandomness()
        self._by_name: dict[str, Stream[Any]] = {}
        self._ended: dict[str, float] = {}  # in order of their ends
        self._deletions: dict[str, asyncio.Future[None]] = {}  # of logs whose streams are forgotten already

    async def __aenter__(self) -> Self:
        if self.engine is not None:
            await self.engine.open()
            try:
                await self._restore(self.engine)
            except BaseException:
                await self.engine.close()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        durable = [stream for stream in self._by_name.values() if isinstance(stream, DurableStream)]
        await asyncio.gather(*(stream.settle() for stream in durable))
        self.close()
        if self.engine is not None:
            await asyncio.gather(*self._deletions.values(), return_exceptions=True)
            await self.engine.close()

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Stream[Any]]:
        return iter(self._by_name.values())

    def stream(
        self,
        name: str,
        data: Callable[..., D],
        /,
        *,
        retain: Retention | None = None,
        overflow: Overflow = "drop",
        durable: bool = False,
        is_owned: bool = False,
    ) -> Stream[D]:
        """Return the stream of that name, made now if there is none.

        Args:
            name: dot-separated parts of ``[A-Za-z0-9_-]``.
            data: the type of its events' data; ``object`` for any JSON.
            retain: what it keeps, when it is made now.
            overflow: what gives way when it is full, when it is made now: ``drop`` lets the oldest go, ``latest`` keeps
                the newest event of each key.
            durable: the engine keeps it, and readers see only what is committed; when it is made now.
            is_owned: only this program appends to it, no client of a hub; when it is made now.

        Raises:
            InvalidInputError: the name or the retention is malformed, or there is no engine for a durable stream.
            RefusedError: there are ``streams_max`` streams already.
        """
        found = self._by_name.get(name)
        if found is not None:
            if found.data is object:  # restored from the engine, or made for a client: nobody knew its type
                found.data = data
            return found
        return self.create(name, data, retain=retain, overflow=overflow, durable=durable, is_owned=is_owned)

    def create(
        self,
        name: str,
        data: Callable[..., D],
        /,
        *,
        retain: Retention | None = None,
        overflow: Overflow = "drop",
        durable: bool = False,
        is_owned: bool = False,
    ) -> Stream[D]:
        """Make a stream; see ``stream``.

        Raises:
            NameTakenError: there is one of that name.
        """
        check_name(name, what="a stream name")
        existing = self._by_name.get(name)
        if existing is not None and not existing.is_closed:
            message = f"there is a stream {name!r} already"
            raise NameTakenError(message)
        self._forget_ended()
        if len(self._by_name) >= self.streams_max:
            message = f"there are {self.streams_max} streams already"
            raise RefusedError(message, retry_after_s=5.0, hint="close streams that are no longer used")
        epoch = self.randomness.token(EPOCH_LENGTH)
        ring = Ring(epoch, (retain or Retention()).checked(), latest=overflow == "latest")
        if durable:
            is_replacing = isinstance(existing, DurableStream)
            stream: Stream[D] = self._durable(name, ring, data, overflow, is_owned=is_owned, is_replacing=is_replacing)
        else:
            stream = Stream(name, ring, data, clock=self.clock, overflow=overflow, is_owned=is_owned)
        self._by_name[name] = stream
        self._ended.pop(name, None)
        return stream

    def get(self, name: str) -> Stream[Any]:
        """Return the stream of that name.

        Raises:
            StreamNotFoundError: there is none; near names are in the hint.
        """
        stream = self._by_name.get(name)
        if stream is None:
            raise StreamNotFoundError(name, near=self._near(name))
        return stream

    def matching(self, glob: str = "*") -> list[Stream[Any]]:
        """Return the streams whose names match, by name."""
        return [self._by_name[name] for name in sorted(self._by_name) if fnmatchcase(name, glob)]

    async def end(self, name: str) -> None:
        """End the stream. It can be read for ``ended_kept_s`` more; one made later under the name begins a new epoch.

        Raises:
            StreamNotFoundError: there is none.
        """
        stream = self.get(name)
        await stream.end()
        # Someone else may have ended it meanwhile, and made another of its name, which must not be forgotten.
        if self._by_name.get(name) is stream:
            self._ended.setdefault(name, self.clock.monotonic_s())
        self._forget_ended()

    def _near(self, name: str) -> list[str]:
        return difflib.get_close_matches(name, islice(self._by_name, NEAR_NAMES_MAX), n=3)

    def _forget_ended(self) -> None:
        """Forget what ended too long ago, and the oldest of too much: ended streams must not fill the memory."""
        now_s = self.clock.monotonic_s()
        size_bytes = sum(self._by_name[name].ring.size_bytes for name in self._ended)
        while self._ended:
            name, ended_s = next(iter(self._ended.items()))
            is_recent = now_s - ended_s < self.ended_kept_s
            if is_recent and len(self._ended) <= ENDED_MAX and size_bytes <= ENDED_BYTES_MAX:
                return
            del self._ended[name]
            forgotten = self._by_name.pop(name)
            size_bytes -= forgotten.ring.size_bytes
            if isinstance(forgotten, DurableStream) and self.engine is not None:
                deletion = self._deletions[name] = asyncio.ensure_future(self.engine.delete_log(name))
                deletion.add_done_callback(partial(self._on_deleted, name))

    def _on_deleted(self, name: str, deletion: asyncio.Future[None]) -> None:
        if self._deletions.get(name) is deletion:
            del self._deletions[name]
        if not deletion.cancelled():
            deletion.exception()  # the engine's next start finds the log again, ended, and it is tried once more

    def _durable(
        self, name: str, ring: Ring, data: Callable[..., D], overflow: Overflow, *, is_owned: bool, is_replacing: bool
    ) -> DurableStream[D]:
        if self.engine is None:
            raise InvalidInputError(
                f"{name!r} cannot be durable: there is no engine here", hint="make it with Streams(engine=…)"
            )
        if overflow != "drop":
            raise InvalidInputError(f"a durable stream keeps what comes, it cannot have overflow {overflow!r}")
        return DurableStream(
            name,
            ring,
            data,
            engine=self.engine,
            clock=self.clock,
            is_owned=is_owned,
            is_replacing=is_replacing,
            deletion=self._deletions.get(name),
        )

    async def _restore(self, engine: Engine) -> None:
        for state in await engine.logs():
            epoch = self.randomness.token(EPOCH_LENGTH)
            stream = self._by_name[state.name] = await restore(engine, state.name, epoch=epoch, clock=self.clock)
            if stream.is_closed:
                self._ended[state.name] = self.clock.monotonic_s()

    def close(self) -> None:
        """End all streams."""
        for stream in self._by_name.values():
            stream.close()
