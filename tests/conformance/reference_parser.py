"""The standard's algorithm for event streams, one character at a time and nothing clever.

It is what the real parser is compared with, so it shares no code with it and follows the order of the standard's text:
decode the whole stream, then lines, then fields. It keeps everything and has no limits.

Source: WHATWG HTML 9.2.5 and 9.2.6.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_RETRY_MS_MAX = 2**53 - 1


@dataclass(frozen=True)
class ReferenceEvent:
    event: str
    data: str
    id: str
    retry: int | None


@dataclass
class ReferenceParser:
    events: list[ReferenceEvent] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    last_event_id: str = ""
    retry_ms: int | None = None
    _data_buffer: str = ""
    _event_type_buffer: str = ""
    _last_event_id_buffer: str = ""
    _retry_since_event: int | None = None

    def parse(self, stream: bytes) -> ReferenceParser:
        """Take the whole stream at once; a parser is used for one stream."""
        text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
        line = ""
        before = ""
        for character in text:
            if character in "\r\n":
                # An LF after a CR is the second half of a line end; the first half has ended the line.
                if before + character != "\r\n":
                    self._process_line(line)
                line = ""
            else:
                line += character
            before = character
        return self

    def _process_line(self, line: str) -> None:
        if line == "":
            self._dispatch()
        elif line.startswith(":"):
            self.comments.append(line[1:])
        elif ":" in line:
            position = line.index(":")
            self._process_field(line[:position], line[position + 1 :].removeprefix(" "))
        else:
            self._process_field(line, "")

    def _process_field(self, name: str, value: str) -> None:
        if name == "event":
            self._event_type_buffer = value
        elif name == "data":
            self._data_buffer += value + "\n"
        elif name == "id" and "\0" not in value:
            self._last_event_id_buffer = value
        elif name == "retry" and value != "" and all(character in "0123456789" for character in value):
            number = 0
            for digit in value:
                # covey's own bound; the standard has none.
                number = min(number * 10 + "0123456789".index(digit), _RETRY_MS_MAX)
            self.retry_ms = self._retry_since_event = number

    def _dispatch(self) -> None:
        self.last_event_id = self._last_event_id_buffer
        if self._data_buffer != "":
            data = self._data_buffer.removesuffix("\n")
            event = self._event_type_buffer if self._event_type_buffer != "" else "message"
            self.events.append(ReferenceEvent(event, data, self.last_event_id, self._retry_since_event))
            self._retry_since_event = None
        self._data_buffer = ""
        self._event_type_buffer = ""
