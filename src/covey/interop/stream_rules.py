"""What an event stream inside an HTTP answer says about itself: that it failed, that it is whole, that it warms up.

A status of 200 says nothing about a stream that fails after it. The rules tell, event by event, and the watch that
keeps to them is pure: bytes in, and what is known by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec

from covey.errors import TooLargeError
from covey.wire.event_stream import EventStreamParser, ServerSentEvent


class StreamRules(msgspec.Struct, frozen=True, kw_only=True):
    """How to read the events of one kind of service.

    Args:
        is_end: tells the event that says that nothing is missing; a stream that ends without it was cut.
        failure_of: returns what an event says went wrong, as the API says it in JSON, or None.
        is_prelude: tells events that come before there is anything to show. While there were no others, nothing is
            lost when the request is made again.
    """

    is_end: Callable[[ServerSentEvent], bool]
    failure_of: Callable[[ServerSentEvent], Mapping[str, object] | None]
    is_prelude: Callable[[ServerSentEvent], bool]


class StreamWatch:
    """What is known of one stream by now."""

    __slots__ = ("_parser", "_rules", "failure", "has_begun", "is_complete")

    def __init__(self, rules: StreamRules) -> None:
        self._rules = rules
        self._parser: EventStreamParser | None = EventStreamParser()
        # What it said went wrong, while nothing else had come but its prelude.
        self.failure: Mapping[str, object] | None = None
        # An event came that is not of the prelude.
        self.has_begun = False
        # The last event was there, or the one that says that none follows.
        self.is_complete = False

    @property
    def is_decided(self) -> bool:
        """Whether it is clear if the stream got anywhere."""
        return self.has_begun or self.failure is not None

    def receive_data(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._parser is None or self.is_complete:
            return
        try:
            events = self._parser.receive_data(data)
        except TooLargeError:
            # Not for us to judge: whoever reads it may have room for it. Nothing more can be known of this stream.
            self._parser, self.has_begun, self.is_complete = None, True, True
            return
        for event in events:
            self._take(event)

    def _take(self, event: ServerSentEvent) -> None:
        failure = self._rules.failure_of(event)
        if failure is not None:
            self.is_complete = True
            if not self.has_begun:
                self.failure = failure
        elif self._rules.is_end(event):
            self.has_begun = self.is_complete = True
        elif not self._rules.is_prelude(event):
            self.has_begun = True


# ---- the streams of OpenAI (chat completions and responses) and Anthropic, and of those who answer like them

_ENDS: Final = frozenset({"message_stop", "response.completed", "response.incomplete"})
_PRELUDES: Final = frozenset(
    {"content_block_start", "message_start", "ping", "response.created", "response.in_progress", "response.queued"}
)


def _is_end(event: ServerSentEvent) -> bool:
    return event.event in _ENDS or event.data.startswith("[DONE]")


def _failure_of(event: ServerSentEvent) -> Mapping[str, object] | None:
    # Most events are deltas, which are not worth reading as JSON only to see that they are no errors.
    if event.event not in {"error", "response.failed"} and '"error"' not in event.data:
        return None
    body = _object(event.data)
    if event.event == "response.failed":
        response = body.get("response")
        return cast("Mapping[str, object]", response) if isinstance(response, dict) else body
    return body if event.event == "error" or isinstance(body.get("error"), dict) else None


def _object(data: str) -> dict[str, object]:
    try:
        decoded: Any = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return {}
    return cast("dict[str, object]", decoded) if isinstance(decoded, dict) else {}


LLM_STREAMS: Final = StreamRules(
    is_end=_is_end, failure_of=_failure_of, is_prelude=lambda event: event.event in _PRELUDES
)
