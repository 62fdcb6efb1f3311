"""An event loop whose time is made up: when nothing can run, the clock jumps to the next timer.

It is asyncio's own loop with the part that waits taken out, so tasks, futures, locks and timeouts are the real ones.
What would reach the real world, such as sockets, threads and child processes, is refused.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import inspect
import random
import socket
import threading
from asyncio import BaseEventLoop
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from itertools import count
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, TypeVarTuple, Unpack

from covey.testing.process import CURRENT, NotSimulatedError, Process, SimulationError

if TYPE_CHECKING:
    from covey.testing.network import Network, SimServer

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
P = TypeVar("P", bound=asyncio.BaseProtocol)

# Not 0, which a program could take for "never".
START_S: Final = 1000.0
# More turns than this without time going on are a loop that would not end.
TURNS_AT_ONCE_MAX: Final = 1_000_000
_PRUNE_MIN: Final = 256
_COLLECT_TURNS: Final = 1 << 18
_CLOSE_TRIES: Final = 1000


class DeadlockError(SimulationError):
    """No task can run and no timer is set: nothing would ever happen again."""


class Turn(asyncio.TimerHandle):
    """A callback, and the process it belongs to."""

    __slots__ = ("is_wakeup", "process")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.process = CURRENT.get() if context is None else context.get(CURRENT, _NOBODY)
        # A task that a future wakes is given that future; one that takes its first step is given nothing.
        self.is_wakeup = bool(args) and isinstance(getattr(callback, "__self__", None), asyncio.Task)

    def run(self) -> None:
        """Call it; an exception goes to the loop's handler."""
        self._run()


_NOBODY: Final = CURRENT.get()


def refused(what: str) -> Any:  # noqa: ANN401 -- stands for methods of many signatures
    """Return a method that says that the simulation does not have this."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise NotSimulatedError(
            f"a simulation has no {what}", hint="give the code under test its clock, network and disk as arguments"
        )

    return refuse


class SimLoop(BaseEventLoop):
    """See the module.

    Args:
        shuffle: lets tasks that wake at the same moment do so in any order, to explore interleavings. asyncio itself
            wakes them first come, first served; callbacks and the first steps of tasks always are.
    """

    _stopping: bool  # BaseEventLoop's, set by stop()
    _thread_id: int | None  # BaseEventLoop's, while it runs

    def __init__(self, *, shuffle: random.Random | None = None) -> None:
        super().__init__()
        self.network: Network | None = None
        self.limit_s = float("inf")
        self.turns = 0
        self.is_ending = False
        self._now_s = START_S
        self._shuffle = shuffle
        self._turns: deque[Turn] = deque()
        self._timers: list[tuple[float, int, Turn]] = []
        self._order = count()
        self._cancelled_timers = 0
        self._moved_at_turn = 0
        self._collect_at_turn = _COLLECT_TURNS
        self._left_behind: list[Turn] = []
        self._tasks: dict[asyncio.Task[Any], Process] = {}
        self._tasks_max = _PRUNE_MIN
        self._names = count(1)
        self.set_task_factory(self._make_task)

    # ---- time and turns
    def time(self) -> float:
        """Return simulated seconds."""
        return self._now_s

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        turn = Turn(self._now_s, callback, args, self, context)
        self._turns.append(turn)
        return turn

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio; timers of the same moment go off in the order in which they were set."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = Turn(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio; there are no other threads here."""
        if self._thread_id not in {None, threading.get_ident()}:
            raise NotSimulatedError("a simulation has one thread, and this is another")
        return self.call_soon(callback, *args, context=context)

    def run_forever(self) -> None:
        """See asyncio."""
        with _without_collector():
            super().run_forever()

    def _run_once(self) -> None:
        if not self._turns and not self._stopping:
            self._jump()
        while self._timers and self._timers[0][0] <= self._now_s:
            self._turns.append(heapq.heappop(self._timers)[2])
        if self._shuffle is not None and len(self._turns) > 1:
            self._shuffle_wakeups(self._shuffle)
        for _ in range(len(self._turns)):
            turn = self._turns.popleft()
            if turn.cancelled():
                continue
            if not (self.is_ending or turn.process.may_run()):
                self._left_behind.append(turn)
                continue
            self.turns += 1
            turn.run()
        if self.turns >= self._collect_at_turn:
            self._collect_at_turn = self.turns + _COLLECT_TURNS
            gc.collect()
        if self.turns - self._moved_at_turn > TURNS_AT_ONCE_MAX:
            raise SimulationError(
                f"{TURNS_AT_ONCE_MAX} turns ran and no time passed", hint="a loop awaits nothing but sleep(0)"
            )

    def _jump(self) -> None:
        """Go to the next timer that somebody still waits for."""
        while self._timers and not self._is_awaited(self._timers[0][2]):
            heapq.heappop(self._timers)
        if not self._timers:
            raise DeadlockError(f"nothing can happen any more at {self.describe_time()}{self._describe_tasks()}")
        when_s = self._timers[0][0]
        if when_s > self.limit_s:
            raise SimulationError(
                f"it is not done at {self.describe_time()}, and the next timer is over the limit"
                f"{self._describe_tasks()}",
                hint="give run() a higher limit_s if it should take that long",
            )
        if when_s > self._now_s:
            self._now_s = when_s
            self._moved_at_turn = self.turns

    def _is_awaited(self, timer: Turn) -> bool:
        return not timer.cancelled() and (timer.process.is_alive or self.is_ending)

    def _shuffle_wakeups(self, shuffle: random.Random) -> None:
        places = [place for place, turn in enumerate(self._turns) if turn.is_wakeup]
        if len(places) > 1:
            woken = [self._turns[place] for place in places]
            shuffle.shuffle(woken)
            for place, turn in zip(places, woken, strict=True):
                self._turns[place] = turn

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:  # noqa: ARG002 -- asyncio's own hook
        # A timeout that did not come is cancelled long before its time: without this they would fill the memory.
        self._cancelled_timers += 1
        if self._cancelled_timers > _PRUNE_MIN + len(self._timers) // 2:
            self._timers = [timer for timer in self._timers if not timer[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    # ---- tasks
    def _make_task(
        self,
        _: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        **options: Any,  # noqa: ANN401
    ) -> asyncio.Task[T]:
        # asyncio numbers the tasks of all loops together, which would tell runs of one seed apart.
        options["name"] = options.get("name") or f"task-{next(self._names)}"
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, **options)
        # Held here, for a task that crashed must not be collected: that would run its `finally` at any time.
        context: Context | None = options.get("context")
        self._tasks[task] = CURRENT.get() if context is None else context.get(CURRENT, _NOBODY)
        if len(self._tasks) > self._tasks_max:
            self._tasks = {task: process for task, process in self._tasks.items() if not task.done()}
            self._tasks_max = _PRUNE_MIN + 2 * len(self._tasks)
        return task

    def unfinished(self) -> dict[asyncio.Task[Any], Process]:
        """Return the tasks that are not done, those of crashed processes too, in the order in which they were made."""
        return {task: process for task, process in self._tasks.items() if not task.done()}

    def run_to_the_end(self) -> None:
        """Cancel whatever is left and let it clean up; let go of what belongs to processes that crashed."""
        self._left_behind.clear()
        self._timers = [timer for timer in self._timers if self._is_awaited(timer[2])]
        heapq.heapify(self._timers)
        self.is_ending = True
        left = self.unfinished()
        self.run_until_complete(self._bury({task: process for task, process in left.items() if not process.is_alive}))
        cancelled = [task for task in self.unfinished() if task.cancel()]
        if cancelled:
            self.run_until_complete(asyncio.gather(*cancelled, return_exceptions=True))
        self.run_until_complete(self.shutdown_asyncgens())

    async def _bury(self, tasks: dict[asyncio.Task[Any], Process]) -> None:
        """End coroutines that nobody will ever resume, here and now, and not whenever they are collected."""
        for task, process in tasks.items():
            del self._tasks[task]
            setattr(task, "_log_destroy_pending", False)  # noqa: B010 -- as asyncio.gather does; no type says that it is there
            context = copy_context()
            context.run(CURRENT.set, process)
            context.run(_close, task.get_coro())

    def describe_time(self) -> str:
        """Return how much time has passed, for people."""
        return f"{self._now_s - START_S:.6f} s"

    def _describe_tasks(self) -> str:
        waiting = [(task, process) for task, process in self.unfinished().items() if process.is_alive]
        return "".join(f"\n  {task.get_name()} ({process}) waits in {_place_of(task)}" for task, process in waiting)

    # ---- the network
    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,  # noqa: ARG002
        type: int = 0,  # noqa: A002, ARG002
        proto: int = 0,  # noqa: ARG002
        flags: int = 0,  # noqa: ARG002
    ) -> Any:  # noqa: ANN401 -- lists are invariant, and hosts have names here and no numbers
        """Return the name as its own address: hosts have no numbers here."""
        name = host.decode() if isinstance(host, bytes) else host or "localhost"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, int(port or 0)))]

    async def create_connection(
        self,
        protocol_factory: Callable[[], P],
        host: str | None = None,
        port: int | None = None,
        **options: Any,  # noqa: ANN401 -- what belongs to real sockets
    ) -> tuple[asyncio.Transport, P]:
        """Connect over the simulated network; see ``testing.network``."""
        network = self._network(options)
        return await network.connect(protocol_factory, host or "localhost", port or 0)

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        **options: Any,  # noqa: ANN401 -- what belongs to real sockets
    ) -> SimServer:
        """Listen on the simulated network; see ``testing.network``."""
        network = self._network(options)
        return network.listen(protocol_factory, host if isinstance(host, str) else None, port or 0)

    def _network(self, options: dict[str, Any]) -> Network:
        for option in ("ssl", "sock"):
            if options.get(option):
                refused(f"{option} for connections")()
        return self.network or refused("network: use a SimWorld")()

    # ---- what belongs to the real world
    run_in_executor: Any = refused("threads")
    set_default_executor: Any = refused("threads")
    getnameinfo: Any = refused("name service")
    start_tls: Any = refused("TLS")
    sendfile: Any = refused("real files")
    connect_accepted_socket: Any = refused("real sockets")
    create_datagram_endpoint: Any = refused("datagrams; `network.endpoint()` carries messages")
    create_unix_connection: Any = refused("Unix sockets")
    create_unix_server: Any = refused("Unix sockets")
    connect_read_pipe: Any = refused("pipes")
    connect_write_pipe: Any = refused("pipes")
    subprocess_exec: Any = refused("child processes")
    subprocess_shell: Any = refused("child processes")
    add_reader: Any = refused("file descriptors")
    remove_reader: Any = refused("file descriptors")
    add_writer: Any = refused("file descriptors")
    remove_writer: Any = refused("file descriptors")
    sock_recv: Any = refused("real sockets")
    sock_recv_into: Any = refused("real sockets")
    sock_recvfrom: Any = refused("real sockets")
    sock_recvfrom_into: Any = refused("real sockets")
    sock_sendall: Any = refused("real sockets")
    sock_sendto: Any = refused("real sockets")
    sock_connect: Any = refused("real sockets")
    sock_accept: Any = refused("real sockets")
    sock_sendfile: Any = refused("real sockets")
    add_signal_handler: Any = refused("signals")
    remove_signal_handler: Any = refused("signals")


def _suspended(coroutine: object) -> Generator[tuple[Any, FrameType]]:
    """Yield a coroutine and what it awaits, down to the innermost, each with where it stands."""
    awaited: Any = coroutine
    while awaited is not None:
        frame: FrameType | None = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            yield awaited, frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)


def _place_of(task: asyncio.Task[Any]) -> str:
    """Return the innermost line at which a task waits."""
    place = "nothing"
    for _, frame in _suspended(task.get_coro()):
        place = f"{frame.f_code.co_qualname}, {frame.f_code.co_filename}:{frame.f_lineno}"
    return place


def _close(coroutine: object) -> None:
    """Close a coroutine, also one whose cleaning up awaits, which it does in vain."""
    for _ in range(_CLOSE_TRIES):
        # The innermost first: if one below another went on waiting, the one above could no longer be told.
        inner = [awaited for awaited, _ in _suspended(coroutine) if inspect.iscoroutine(awaited)]
        if not inner:
            return
        with suppress(Exception):
            inner[-1].close()


@contextmanager
def _without_collector() -> Generator[None]:
    """Let cycles be collected only where the loop says: by itself that depends on all that went on before.

    It runs code, such as the end of a generator that was left, so the same seed would not give the same run.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
