"""The vectors of ``sse_vectors.json``: chunks of bytes, and what a parser makes of them.

They were checked with a browser's own EventSource. The few large ones are written down as how to build them.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VECTORS_FILE = Path(__file__).with_name("sse_vectors.json")


@dataclass(frozen=True)
class Vector:
    """One input and what is expected of it.

    Args:
        name: unique, tells where the case comes from.
        chunks: the bytes as they arrive.
        events: (type, data, id) of each event.
        events_after_chunk: how many events an eager parser has given after each chunk.
        last_event_id: at the end of the stream.
        retry_ms: at the end of the stream.
        comments: each one, or for a large one only how many.
    """

    name: str
    chunks: tuple[bytes, ...]
    events: tuple[tuple[str, str, str], ...]
    events_after_chunk: tuple[int, ...]
    last_event_id: str
    retry_ms: int | None
    comments: tuple[str, ...] | int

    @property
    def stream(self) -> bytes:
        return b"".join(self.chunks)


def load_vectors() -> list[Vector]:
    return [_vector(entry) for entry in json.loads(VECTORS_FILE.read_text())["vectors"]]


def _vector(entry: dict[str, Any]) -> Vector:
    expect = entry["expect"]
    comments = expect["comments"]
    if "chunks_b64" in entry:
        chunks = tuple(base64.b64decode(chunk) for chunk in entry["chunks_b64"])
        events = expect["events"]
    else:
        chunks = _built_chunks(entry["chunks_gen"])
        events = [event | {"data": _built_data(event["data"])} for event in expect["events_gen"]]
    return Vector(
        name=entry["name"],
        chunks=chunks,
        events=tuple((event["type"], event["data"], event["id"]) for event in events),
        events_after_chunk=tuple(expect["events_after_chunk"]),
        last_event_id=expect["last_event_id"],
        retry_ms=expect["retry_ms"],
        comments=comments if isinstance(comments, int) else tuple(comments),
    )


def _built_chunks(steps: list[dict[str, Any]]) -> tuple[bytes, ...]:
    """Return the chunks of a large vector: those of its one step that says how many, or all steps as one chunk."""
    for step in steps:
        if "chunks" in step:
            return (
                step["before"].encode(),
                *[(step["repeat"] * step["n"]).encode()] * step["chunks"],
                step["after"].encode(),
            )
    return ("".join(step["lit"] if "lit" in step else step["repeat"] * step["n"] for step in steps).encode(),)


def _built_data(data: str | dict[str, Any]) -> str:
    if isinstance(data, str):
        return data
    join: str = data.get("join", "")
    return join.join([data["repeat"]] * data["n"])
