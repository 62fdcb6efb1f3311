"""How fast event streams are parsed: covey beside other Python parsers and beside what splitting alone costs.

Peers are taken as far as they are installed (`bench/requirements.txt`). Each is fed bytes the way its own client feeds
it, decoding included. Rounds go through all parsers in turn, so that a slow moment of the machine meets them alike.

It doesn't say how right they are: `tests/conformance/test_event_stream_vectors.py` is for that.
"""

from __future__ import annotations

import argparse
import codecs
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from covey.wire.event_stream import EventStreamParser

CHUNK_BYTES = 1 << 16
ROUNDS = 9

Parser = Callable[[list[bytes]], int]


@dataclass(frozen=True)
class Workload:
    name: str
    chunks: list[bytes]
    events: int

    @property
    def megabytes(self) -> float:
        return sum(map(len, self.chunks)) / 1e6


def in_chunks(events: list[bytes]) -> list[bytes]:
    stream = b"".join(events)
    return [stream[begin : begin + CHUNK_BYTES] for begin in range(0, len(stream), CHUNK_BYTES)]


def workloads() -> list[Workload]:
    ordinary = [b"id: %d\ndata: %b\n\n" % (number, b"x" * 185) for number in range(10_000)]
    tokens = [b'data: {"t":"tok%d"}\n\n' % (number % 1000) for number in range(30_000)]
    named = [
        b'id: k3f9.%d\nevent: stdout\ndata: {"cell":"c%d","text":"%b"}\n\n' % (number, number, b"y" * 140)
        for number in range(10_000)
    ]
    return [
        Workload("200 B events, 64 KiB chunks", in_chunks(ordinary), len(ordinary)),
        Workload("22 B token events, 64 KiB chunks", in_chunks(tokens), len(tokens)),
        Workload("200 B named events, 64 KiB chunks", in_chunks(named), len(named)),
        Workload("200 B events, one a chunk", ordinary, len(ordinary)),
    ]


def covey(chunks: list[bytes]) -> int:
    parser = EventStreamParser()
    return sum(len(parser.receive_data(chunk)) for chunk in chunks)


def limit_count(chunks: list[bytes]) -> int:
    """Find the ends of blocks and do nothing with them: no parser can be faster."""
    return sum(chunk.count(b"\n\n") for chunk in chunks)


def limit_split_and_decode(chunks: list[bytes]) -> int:
    """Make a text of each block: what a parser in Python does at the least."""
    return sum(len([block.decode() for block in chunk.split(b"\n\n")]) for chunk in chunks)


def httpx_sse() -> Parser:
    from httpx_sse._decoders import SSEDecoder, SSELineDecoder

    def parse(chunks: list[bytes]) -> int:
        text = codecs.getincrementaldecoder("utf-8")("replace")
        lines, events = SSELineDecoder(), SSEDecoder()
        return sum(events.decode(line) is not None for chunk in chunks for line in lines.decode(text.decode(chunk)))

    return parse


def httpx2() -> Parser:
    from httpx2._sse import _SSEParser

    def parse(chunks: list[bytes]) -> int:
        text = codecs.getincrementaldecoder("utf-8")("replace")
        parser = _SSEParser()
        return sum(1 for chunk in chunks for _ in parser.decode(text.decode(chunk)))

    return parse


def sseclient_py() -> Parser:
    from sseclient import SSEClient

    def parse(chunks: list[bytes]) -> int:
        return sum(1 for _ in SSEClient(iter(chunks)).events())

    return parse


def launchdarkly_eventsource() -> Parser:
    from ld_eventsource.reader import _BufferedLineReader, _SSEReader

    def parse(chunks: list[bytes]) -> int:
        return sum(1 for _ in _SSEReader(_BufferedLineReader.lines_from(chunks)).events_and_comments())

    return parse


PEERS = {
    "httpx-sse": httpx_sse,
    "httpx2": httpx2,
    "sseclient-py": sseclient_py,
    "launchdarkly-eventsource": launchdarkly_eventsource,
}


def contenders() -> dict[str, Parser]:
    """Return covey, the limits and each peer that is installed, under its name and version."""
    found: dict[str, Parser] = {
        "covey": covey,
        "limit: count blocks": limit_count,
        "limit: split and decode": limit_split_and_decode,
    }
    for package, load in PEERS.items():
        try:
            found[f"{package} {importlib.metadata.version(package)}"] = load()
        except ImportError:
            continue
    return found


def medians_s(workload: Workload, parsers: dict[str, Parser]) -> dict[str, float]:
    """Return the median time of each parser.

    Raises:
        AssertionError: one did not find all events; its time would say nothing.
    """
    times_s: dict[str, list[float]] = {name: [] for name in parsers}
    for _ in range(ROUNDS):
        for name, parse in parsers.items():
            begin_s = time.perf_counter()
            found = parse(workload.chunks)
            times_s[name].append(time.perf_counter() - begin_s)
            if not name.startswith("limit"):
                assert found == workload.events, f"{name} found {found} of {workload.events} events"
    return {name: statistics.median(times) for name, times in times_s.items()}


def rows() -> list[dict[str, object]]:
    parsers = contenders()
    found: list[dict[str, object]] = []
    for workload in workloads():
        median_s = medians_s(workload, parsers)
        found += [
            {
                "stream": workload.name,
                "parser": name,
                "MB/s": workload.megabytes / took_s,
                "events/s": workload.events / took_s,
                "time beside covey's": took_s / median_s["covey"],
            }
            for name, took_s in sorted(median_s.items(), key=lambda pair: pair[1])
        ]
    return found


def main() -> None:
    options = argparse.ArgumentParser(description="Measure event stream parsers.")
    options.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    is_json = options.parse_args().json
    found = rows()
    if is_json:
        print(json.dumps({"title": f"Event stream parsers, medians of {ROUNDS} runs", "rows": found}))
        return
    for row in found:
        print(
            "{stream:<34} {parser:<32} {MB/s:>8.1f} MB/s {events/s:>12,.0f} events/s"
            " {time beside covey's:>6.2f} x covey's time".format_map(row)
        )


if __name__ == "__main__":
    main()
