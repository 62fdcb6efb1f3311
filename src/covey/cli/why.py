"""`covey why ERROR`: what an error means, whether it may have had an effect, and what a policy does about it."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING

from covey.cli.main import complain
from covey.cli.options import Parser
from covey.cli.text import printable

if TYPE_CHECKING:
    from covey.resilience.outcome import Row

_SHOWN_MAX = 5
_WIDTH = 100


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    parser = Parser("why", "Say what an error means, and what a policy with its defaults does about it.")
    parser.add_argument(
        "error",
        nargs="+",
        metavar="ERROR",
        help="a message, an HTTP status, an errno, the code of an API, or the name of an exception",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array of what is known")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Look it up and print it; status 1 when nothing is known about it."""
    from covey.resilience.outcome import UNKNOWN, shipped
    from covey.resilience.search import rows_about

    text = " ".join(arguments.error)
    rows = rows_about(text, shipped())
    if arguments.json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(rows)).decode())
        return 0 if rows else 1
    if not rows:
        return complain(f"{text[:80]!r}: {UNKNOWN.reason}")
    sys.stdout.write("\n".join(_described(row) for row in rows[:_SHOWN_MAX]))
    if len(rows) > _SHOWN_MAX:
        print(f"\nand {len(rows) - _SHOWN_MAX} more: see `covey why --json`")
    return 0


def _described(row: Row) -> str:
    from covey.resilience.outcome import VERDICTS

    lines = [
        ("why", printable(row.reason)),
        ("it ran", {"no": "no", "maybe": "perhaps", "yes": "yes"}[row.executed]),
        ("a policy", _plan(row)),
        ("breaker", "counts it as a failure of the target" if row.counts else "does not count it"),
        ("source", printable(row.source)),
    ]
    body = "".join(_line(name, text) for name, text in lines)
    return f"{row.domain} {row.key}: {row.verdict} ({VERDICTS[row.verdict]})\n{body}"


def _line(name: str, text: str) -> str:
    indent = " " * 12
    return textwrap.fill(text, _WIDTH, initial_indent=f"  {name:<10}", subsequent_indent=indent) + "\n"


def _plan(row: Row) -> str:
    """Return in words what the default policy does after the first attempt."""
    from covey.resilience.outcome import outcome_of
    from covey.resilience.retry import REASONS, reason_against

    outcome = outcome_of(row)
    plain = reason_against(outcome, attempt=1, attempts_max=3, is_repeatable=False, is_nested=False)
    repeatable = reason_against(outcome, attempt=1, attempts_max=3, is_repeatable=True, is_nested=False)
    wait = {
        "hint": "after the time the target asked for, or else a jittered backoff",
        "immediate": "at once",
        "reconnect": "on a new connection, after a jittered backoff",
    }.get(row.wait, "after a jittered backoff")
    if plain is None:
        return f"tries again, {wait}"
    if repeatable is None:
        return f"tries a call again that has a key or is idempotent, {wait}; tells others that it may have run"
    return f"does not try again: {REASONS[repeatable]}"
