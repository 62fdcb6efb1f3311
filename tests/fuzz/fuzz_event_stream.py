"""Compare the event stream parser with the standard's algorithm on mutated vectors, cut anywhere.

``python tests/fuzz/fuzz_event_stream.py --inputs 1000000 --seed 1``: the same seed gives the same inputs. It ends at
the first difference and prints the chunks that show it.
"""
# ruff: noqa: T201 - a script's answer is what it prints

from __future__ import annotations

import argparse
import itertools
import random
import secrets
import sys
import time
from pathlib import Path

# A script and not a test: the folder above `tests` is not on its path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conformance.event_stream_vectors import load_vectors
from tests.conformance.reference_parser import ReferenceParser

from covey.errors import TooLargeError
from covey.wire.event_stream import EventStreamParser, ServerSentEvent

Outcome = tuple[list[tuple[str, str, str, int | None]], list[str], str, int | None, bool]

STREAM_BYTES_MAX = 300
PIECES = (
    b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b":", b": ", b" ", b"\0", b"data", b"data: ", b"data:", b"event: ",
    b"event", b"id: ", b"id", b"retry: ", b"retry:", b"7", b"0", b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\xf0\x9f",
    b"\x90\xa6", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xc2\x85", b"\x0b", b"\x0c", b"\x1c",
)  # fmt: skip
SEEDS = [vector.stream[:STREAM_BYTES_MAX] for vector in load_vectors()]


def drawn_stream(draw: random.Random) -> bytes:
    """Return a vector after a few changes."""
    stream = draw.choice(SEEDS)
    for _ in range(draw.randint(1, 5)):
        begin = draw.randint(0, len(stream))
        end = min(len(stream), begin + draw.randint(0, 8))
        match draw.randrange(5):
            case 0:
                stream = stream[:begin] + stream[end:]
            case 1:
                stream = stream[:end] + stream[begin:]
            case 2:
                stream = stream[:begin] + bytes([draw.randrange(256)]) + stream[end:]
            case 3:
                stream = stream[:begin] + draw.choice(SEEDS)[-draw.randint(1, 40) :]
            case _:
                stream = stream[:begin] + draw.choice(PIECES) + stream[begin:]
    return stream


def drawn_cut(draw: random.Random, stream: bytes) -> list[bytes]:
    cuts = sorted(draw.randint(0, len(stream)) for _ in range(draw.choice((0, 1, 1, 2, 2, 5, 30))))
    return [stream[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(stream)])]


def outcome(chunks: list[bytes], event_bytes_max: int) -> Outcome:
    comments: list[str] = []
    events: list[ServerSentEvent] = []
    parser = EventStreamParser(event_bytes_max=event_bytes_max, on_comment=comments.append)
    is_over_limit = False
    try:
        for chunk in chunks:
            events += parser.receive_data(chunk)
        parser.receive_data(b"")
    except TooLargeError:
        is_over_limit = True
    facts = [(event.event, event.data, event.id, event.retry) for event in events]
    return facts, comments, parser.last_event_id, parser.retry_ms, is_over_limit


def expected(stream: bytes) -> Outcome:
    reference = ReferenceParser().parse(stream)
    facts = [(event.event, event.data, event.id, event.retry) for event in reference.events]
    return facts, reference.comments, reference.last_event_id, reference.retry_ms, False


def difference(draw: random.Random) -> str | None:
    """Try one drawn stream, and return what is wrong with it or None."""
    stream = drawn_stream(draw)
    chunks = drawn_cut(draw, stream)
    got, wanted = outcome(chunks, 1 << 20), expected(stream)
    if got != wanted:
        return f"{chunks!r}\n  gives    {got!r}\n  and not  {wanted!r}"
    # The reference knows no limit, so that two ways to cut the stream are compared.
    event_bytes_max = draw.randint(1, 60)
    limited, whole = outcome(chunks, event_bytes_max), outcome([stream], event_bytes_max)
    if limited != whole:
        return f"{chunks!r}\n  under {event_bytes_max} bytes gives {limited!r}\n  and in one chunk {whole!r}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the event stream parser with the standard's algorithm.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many streams to try (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="default: a new one, which is printed")
    options = parser.parse_args()
    print(f"fuzz_event_stream: seed {options.seed}", flush=True)
    draw = random.Random(options.seed)
    begin_s = time.perf_counter()
    for number in range(options.inputs):
        found = difference(draw)
        if found is not None:
            sys.exit(f"fuzz_event_stream: seed {options.seed}, input {number}:\n{found}")
    print(f"fuzz_event_stream: {options.inputs:,} inputs agree, {time.perf_counter() - begin_s:.0f} s")


if __name__ == "__main__":
    main()
