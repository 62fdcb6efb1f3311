"""What a session's process writes and sends, as events of its transcript. Pure: bytes and frames in, records out.

Source: protocol 3.1.
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

import msgspec

OutputKind = Literal["stdout", "stderr"]

# A text beside the rest of its event stays well within the 1 MiB that an event may have.
TEXT_BYTES_MAX: Final = 512 << 10
MIME_BYTES_MAX: Final = 768 << 10
# Bytes taken into one event of output: as JSON they may grow sixfold.
OUTPUT_BYTES_MAX: Final = 128 << 10
# Bad places in one piece of output after which it is taken for binary data, in one event and not hundreds.
BAD_PLACES_MAX: Final = 8

_encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode


class Record(NamedTuple):
    """An event before it has its number."""

    kind: str
    data: dict[str, object]


class Transcript:
    """Decodes the two output streams and says which cell each piece belongs to.

    A character cut in two by a read is put together again; what is not UTF-8 travels as base64, so that the bytes of
    all events in a row are exactly the bytes that were written.
    """

    def __init__(self) -> None:
        self.cell: str | None = None
        self._unfinished: dict[OutputKind, bytes] = {"stdout": b"", "stderr": b""}

    def output(self, kind: OutputKind, data: bytes) -> list[Record]:
        """Return the events for bytes that were read from fd 1 or 2."""
        data = self._unfinished[kind] + data
        self._unfinished[kind] = b""
        records: list[Record] = []
        for start in range(0, len(data), OUTPUT_BYTES_MAX):
            piece = self._unfinished[kind] + data[start : start + OUTPUT_BYTES_MAX]
            self._unfinished[kind] = b""
            records += self._decode(kind, piece)
        return records

    def finish_output(self) -> list[Record]:
        """Return what is left of characters that never became whole; at the end of a cell or of the process."""
        records = [self._binary(kind, rest) for kind, rest in self._unfinished.items() if rest]
        self._unfinished = {"stdout": b"", "stderr": b""}
        return records

    def _decode(self, kind: OutputKind, data: bytes) -> list[Record]:
        records: list[Record] = []
        while data:
            try:
                text, used = codecs.utf_8_decode(data, "strict", False)  # noqa: FBT003 -- takes no keywords
            except UnicodeDecodeError as error:
                if error.start > 0:
                    records.append(self._text(kind, data[: error.start].decode()))
                end = error.end if len(records) < 2 * BAD_PLACES_MAX else len(data)
                records.append(self._binary(kind, data[error.start : end]))
                data = data[end:]
            else:
                if text:
                    records.append(self._text(kind, text))
                self._unfinished[kind] = data[used:]
                break
        return records

    def _text(self, kind: OutputKind, text: str) -> Record:
        return Record(kind, {"cell": self.cell, "text": text})

    def _binary(self, kind: OutputKind, data: bytes) -> Record:
        return Record(kind, {"cell": self.cell, "base64": base64.b64encode(data).decode()})


def printable(text: str) -> str:
    r"""Return the text with lone surrogates, which no encoding can carry, as ``\udXXX``."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def cut(text: str, *, size_bytes_max: int = TEXT_BYTES_MAX) -> str:
    """Return the text, or where it is too long as JSON its beginning and end, with a note of what is missing."""
    if len(text) * 6 <= size_bytes_max or len(_encode(text)) <= size_bytes_max:
        return text
    kept = min(len(text), size_bytes_max)
    while True:
        head, tail = text[: kept - kept // 4], text[len(text) - kept // 4 :]
        shown = f"{head}\n[… {len(text) - kept} of {len(text)} characters are left out here …]\n{tail}"
        size = len(_encode(shown))
        if size <= size_bytes_max:
            return shown
        kept = int(kept * size_bytes_max / size * 0.98)


def fit_mime(mime: Mapping[str, object]) -> dict[str, object]:
    """Return the bundle within an event's limit.

    The plain text is cut; other representations are left out, the largest first, and named under ``covey/omitted``.
    """
    fitting = dict(mime)
    plain = fitting.get("text/plain")
    if isinstance(plain, str):
        fitting["text/plain"] = cut(plain)
    sizes = {kind: len(_encode(value)) for kind, value in fitting.items()}
    omitted: list[str] = []
    while sum(sizes.values()) > MIME_BYTES_MAX:
        largest = max(sizes, key=lambda kind: sizes[kind] if kind != "text/plain" else 0)
        del fitting[largest], sizes[largest]
        omitted.append(largest)
    if omitted:
        fitting["covey/omitted"] = omitted
    return fitting
