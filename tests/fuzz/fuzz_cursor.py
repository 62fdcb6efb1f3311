"""Give readers a stream's cursors that were changed, cut, joined and made up, and see what they get.

``python tests/fuzz/fuzz_cursor.py --inputs 1000000 --seed 1``: the same seed gives the same inputs. Text is a cursor
exactly when a plain reading of the protocol says so, and whatever the cursor, a reader gets every kept event after it
once and in order, after a word about any hole.
"""
# ruff: noqa: T201 - a script's answer is what it prints

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time

from covey.errors import InvalidInputError
from covey.streams.event import Control, Entry
from covey.streams.retention import Retention
from covey.streams.stream import Stream
from covey.streams.streams import Streams

ALPHABET = "0123456789abcXYZ._-+ ,\n\0é٣\ud800"
EPOCH_CHARACTERS = set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def drawn_text(draw: random.Random, stream: Stream[object]) -> str:
    epoch = stream.ring.epoch if draw.random() < 0.6 else "".join(draw.choices("aZ09", k=draw.randrange(0, 20)))
    seq = str(draw.choice([draw.randrange(0, 40), draw.randrange(-5, 10**6), 10 ** draw.randrange(0, 25)]))
    text = f"{epoch}{draw.choice(['.', '.', '.', '.', '', '..', ','])}{seq}"
    for _ in range(draw.choice([0, 0, 0, 1, 2])):
        place = draw.randrange(0, len(text) + 1)
        text = text[:place] + draw.choice(ALPHABET) * draw.choice([0, 1, 30]) + text[place + draw.randrange(0, 2) :]
    return text


def is_cursor(text: str) -> bool:
    epoch, dot, seq = text.partition(".")
    digits = all(character in "0123456789" for character in seq)
    return bool(dot) and 1 <= len(epoch) <= 16 and set(epoch) <= EPOCH_CHARACTERS and 1 <= len(seq) <= 19 and digits


def check(stream: Stream[object], text: str) -> None:
    try:
        reader = stream.reader(text)
    except InvalidInputError:
        assert not is_cursor(text)
        return
    assert is_cursor(text)
    ring = stream.ring
    epoch, _, digits = text.partition(".")
    known = epoch == ring.epoch and int(digits) <= ring.head
    after = int(digits) if known else ring.floor
    taken = []
    while items := reader.take(count=3):
        taken += items
    notices = [item.kind for item in taken if isinstance(item, Control)]
    assert notices == ([] if known and after >= ring.floor else ["covey.gap" if known else "covey.reset"])
    seqs = [item.seq for item in taken if isinstance(item, Entry)]
    assert seqs == list(range(max(after, ring.floor) + 1, ring.head + 1))
    assert reader.cursor == stream.head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    draw = random.Random(arguments.seed)
    stream: Stream[object] = Streams().stream("fuzz", object, retain=Retention(events=9))
    for number in range(30):
        stream.append_now(str(number).encode(), kind="message")
    started_s = time.monotonic()
    cursors = 0
    for _ in range(arguments.inputs):
        text = drawn_text(draw, stream)
        cursors += is_cursor(text)
        try:
            check(stream, text)
        except Exception:
            print(f"differs: {text!r}", file=sys.stderr)
            raise
    seconds = time.monotonic() - started_s
    print(f"{arguments.inputs} texts, {cursors} of them cursors, agree; {seconds:.0f} s")


if __name__ == "__main__":
    main()
