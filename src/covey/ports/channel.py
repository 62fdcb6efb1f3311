"""An ordered, reliable pair of frame queues between two ends that may both disappear."""

from __future__ import annotations

from typing import Protocol, TypeVar

Received_co = TypeVar("Received_co", covariant=True)
Sent_contra = TypeVar("Sent_contra", contravariant=True)


class Channel(Protocol[Received_co, Sent_contra]):
    """What a child process, a node or a link looks like from here.

    Frames arrive whole, once and in order, until the channel closes. A closed channel stays closed.
    """

    def send(self, frame: Sent_contra) -> None:
        """Hand a frame over; returns at once.

        Raises:
            LocalProtocolError: the channel is closed.
            TooLargeError: the frame is over the channel's limit.
        """
        ...

    async def receive(self) -> Received_co | None:
        """Return the next frame, or None when the other end is gone and everything it sent was received."""
        ...

    def close(self) -> None:
        """Let go of it; what was sent may or may not arrive. Closing twice is harmless."""
        ...
