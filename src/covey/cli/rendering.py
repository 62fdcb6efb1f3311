"""A transcript as text, so that it reads like a session at the prompt. No terminal here: entries in, pieces out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, NamedTuple

from covey.cli.text import printable
from covey.client.session import Entry, Event


class Style(Enum):
    """What a piece is; who writes it decides how that looks."""

    OUTPUT = "output"
    ERROR = "error"
    NOTE = "note"


class Piece(NamedTuple):
    """Some bytes to write; a ``NOTE`` or a prompt begins a line of its own."""

    style: Style
    data: bytes
    is_own_line: bool = False


_FRESH: Final = "the next cell starts a fresh process"


def note(text: str) -> Piece:
    """Return a line that covey itself says."""
    return Piece(Style.NOTE, printable(text).encode() + b"\n", is_own_line=True)


def pieces_of(entry: Entry) -> list[Piece]:
    """Return what is shown of an entry that needs no knowledge of others: output, results, errors, notes."""
    show = _SHOWN.get(entry.kind)
    return [] if show is None else [show(entry.event)]


def code_piece(event: Event, *, label: str | None) -> Piece:
    """Return a cell as it looks at the prompt; ``label`` names whose it is."""
    who = f"[{printable(label)}] " if label else ""
    lines = printable(event.code, kept="\n\t").split("\n")
    shown = [f"{who}>>> {lines[0]}", *(f"{' ' * len(who)}... {line}" for line in lines[1:])]
    return Piece(Style.OUTPUT, _text_bytes("\n".join(shown) + "\n"), is_own_line=True)


def prompt_piece(event: Event) -> Piece:
    """Return what a cell asked when it waited for a line, for a transcript that is read later."""
    return Piece(Style.OUTPUT, _text_bytes(printable(event.prompt, kept="\n\t") + "\n"))


def lost_text(name: str, event: Event, *, what_next: str = _FRESH) -> str:
    """Return in one line how the process of a session ended and what that means."""
    if event.state == "stopped":
        return f"session {name} was stopped"
    if event.reason:
        how = event.reason
    elif event.signal is not None:
        how = f"its process was ended by {_signal_name(event.signal)}"
    else:
        how = f"its process ended with exit status {event.exit}"
    return f"session {name}: {how}; its variables are gone; {what_next}"


def _signal_name(signal: str | int) -> str:
    if isinstance(signal, str):
        return signal
    import signal as signals

    try:
        return signals.Signals(signal).name
    except ValueError:
        return f"signal {signal}"


def _text_bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _mime_text(event: Event) -> str:
    plain = event.mime.get("text/plain")
    if isinstance(plain, str):
        return plain
    return f"<{', '.join(printable(kind) for kind in event.mime) or 'nothing'}>"


def _traceback_text(event: Event) -> str:
    text = event.text or f"{event.name}: {event.message}"
    return text if text.endswith("\n") else text + "\n"


def _gap_text(event: Event) -> str:
    lost = "some events" if event.lost is None else "1 event" if event.lost == 1 else f"{event.lost:,} events"
    return f"missing here: {lost} that the hub no longer keeps"


_SHOWN: Final[Mapping[str, Callable[[Event], Piece]]] = {
    "stdout": lambda event: Piece(Style.OUTPUT, event.output),
    "stderr": lambda event: Piece(Style.ERROR, event.output),
    "result": lambda event: Piece(Style.OUTPUT, _text_bytes(_mime_text(event) + "\n"), is_own_line=True),
    "display": lambda event: Piece(Style.OUTPUT, _text_bytes(_mime_text(event) + "\n"), is_own_line=True),
    "traceback": lambda event: Piece(Style.ERROR, _text_bytes(_traceback_text(event)), is_own_line=True),
    "limit": lambda event: note(f"a limit was reached: {event.which}"),
    "covey.gap": lambda event: note(_gap_text(event)),
    "covey.reset": lambda _: note("the transcript begins anew: the hub lost what came before"),
}
