"""Starting a child process, learning how it ended, and ending it.

The child runs ``covey.children.entry``. It leads a process group of its own, so that an interrupt reaches what it
started too and nothing of it stays behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from covey.children.channel import HostChannel
from covey.wire.frames import FromProcess, ToProcess

# Only where the system cannot wait for a process by descriptor (no pidfd).
POLL_S: Final = 0.05
# Shares of the time given to `stop`: for ending by itself, and for SIGTERM. SIGKILL needs none.
ASK_SHARE: Final = 0.6
# A child started with -P does not look for its own modules in the working folder, where anything may lie.
_COMMAND: Final = (
    "-P",
    "-X",
    "faulthandler",
    "-c",
    "from covey.children.entry import main; main()",
)
_SECRET_WORDS: Final = ("TOKEN", "SECRET", "PASSWORD", "KEY")
# They would turn the child into something else: a prompt after its end, output in another encoding.
_UNWANTED: Final = frozenset({"PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONIOENCODING", "PYTHONEXECUTABLE"})


class Exit(NamedTuple):
    """How a process ended: by itself with ``status``, or by ``signal``; neither when it never started."""

    status: int | None
    signal: int | None


class ChildProcess:
    """A started child and what the host holds of it, made by ``start_child``.

    Args:
        started: as ``subprocess`` knows it.
        channel: frames to and from it.
        stdout: read end of its standard output; whoever reads it owns it.
        stderr: likewise of its standard error.
        on_exit: called once, in the loop, when it has ended.
        loop: the running loop.
    """

    def __init__(
        self,
        started: subprocess.Popen[bytes],
        channel: HostChannel[FromProcess, ToProcess],
        *,
        stdout: int,
        stderr: int,
        on_exit: Callable[[Exit], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.pid = started.pid
        self.channel = channel
        self.stdout = stdout
        self.stderr = stderr
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self._started = started
        self._on_exit = on_exit
        self._loop = loop
        self._pidfd = _pidfd_of(started.pid)
        if self._pidfd is None:
            loop.call_later(POLL_S, self._poll)
        else:
            loop.add_reader(self._pidfd, self._reap)

    def signal(self, number: int, *, group: bool) -> None:
        """Send a signal to the process, or to all that it started and that stayed in its group."""
        # Until it is reaped, which happens here and nowhere else, the number cannot belong to another process.
        if self.exited.done():
            return
        with suppress(ProcessLookupError, PermissionError):
            if group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    async def stop(self, ask: Callable[[], None], *, timeout_s: float) -> list[str]:
        """End it, with force when asking does not help, and return the steps that were needed.

        Args:
            ask: asks it to end by itself.
            timeout_s: how long asking and SIGTERM may take together; then comes SIGKILL.
        """
        steps = ["asked"]
        ask()
        if not await self._ends_within(timeout_s * ASK_SHARE):
            steps.append("terminated")
            self.signal(signal.SIGTERM, group=True)
            if not await self._ends_within(timeout_s * (1 - ASK_SHARE)):
                steps.append("killed")
                self.signal(signal.SIGKILL, group=True)
                await asyncio.shield(self.exited)
        return steps

    async def _ends_within(self, timeout_s: float) -> bool:
        await asyncio.wait([self.exited], timeout=timeout_s)
        return self.exited.done()

    def _poll(self) -> None:
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            self._loop.call_later(POLL_S, self._poll)
        else:
            self._reap()

    def _reap(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        # It is a zombie still, so the group's number is its own: now is the time to end what it left behind.
        self.signal(signal.SIGKILL, group=True)
        status = self._started.wait()
        ended = Exit(status, None) if status >= 0 else Exit(None, -status)
        self.exited.set_result(ended)
        self._on_exit(ended)


def start_child(
    evaluator: str, *, on_exit: Callable[[Exit], None], env: Mapping[str, str] | None = None
) -> ChildProcess:
    """Start a process that runs cells, from the running event loop's thread.

    That thread must live as long as the child: on Linux the child dies with it, so that a killed host leaves no orphan.
    Blocks for as long as the system needs to start a program, a few milliseconds.

    Args:
        evaluator: ``package.module:name`` of an ``EvaluatorFactory``.
        on_exit: called once, when it has ended.
        env: its environment before secrets are taken out; the host's own unless given.

    Raises:
        OSError: the system cannot start it.
    """
    loop = asyncio.get_running_loop()
    host_end, child_end = socket.socketpair()
    pipes: list[int] = []
    try:
        pipes += os.pipe()
        pipes += os.pipe()
        out_read, out_write, err_read, err_write = pipes
        started = subprocess.Popen(
            [sys.executable, *_COMMAND, str(child_end.fileno()), str(os.getpid()), evaluator],
            stdin=subprocess.DEVNULL,
            stdout=out_write,
            stderr=err_write,
            pass_fds=[child_end.fileno()],
            start_new_session=True,
            env=environment(os.environ if env is None else env),
        )
    except BaseException:
        host_end.close()
        for fd in pipes:
            os.close(fd)
        raise
    finally:
        child_end.close()
    os.close(out_write)
    os.close(err_write)
    channel: HostChannel[FromProcess, ToProcess] = HostChannel(host_end, FromProcess, loop=loop)
    return ChildProcess(started, channel, stdout=out_read, stderr=err_read, on_exit=on_exit, loop=loop)


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return what a child may see of ``env``: user code must not find the keys to the hub that runs it."""
    return {name: value for name, value in env.items() if name not in _UNWANTED and not _is_secret(name)}


def _is_secret(name: str) -> bool:
    return name.startswith("COVEY_") and any(word in name for word in _SECRET_WORDS)


def _pidfd_of(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
