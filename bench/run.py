"""Run every benchmark of this folder and write what they found to bench/results.md.

A benchmark is a script beside this one. Called with `--json` it prints, as its last line, one JSON object::

    {"title": "Fan-out, 1,000 readers", "rows": [{"what": "covey", "events/s": 90000, "of limit": 0.94}, ...]}

All figures of one table come from one run on one machine, the limit and the peers beside covey, so that they can be
compared; figures of two tables can't. `python bench/run.py fanout parser` runs those two and leaves the rest of the
page as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
RESULTS = BENCH / "results.md"
TIMEOUT_S = 1800
PREAMBLE = """\
# Figures

Written by `make bench`. Each table is one run of one script, with the limit and the peers measured beside covey.
"""


@dataclass(frozen=True)
class Section:
    """One benchmark's part of the page: its script's name and the Markdown below the heading."""

    name: str
    text: str


def scripts(names: Sequence[str]) -> list[Path]:
    """Return the benchmarks of the given names, or all of them; `_name.py` is a part of another, not a benchmark."""
    known = {path.stem: path for path in sorted(BENCH.glob("[!_]*.py")) if path.name != Path(__file__).name}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"bench: no such benchmark: {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in names] if names else list(known.values())


def cell(value: object) -> str:
    """Return a value as a table shows it: three significant digits are all that a shared machine can say."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value).replace("|", "\\|")


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return the rows as a Markdown table; a column is there when any row has it, in the order of first use."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Return what the figures were taken on, in words that name no host."""
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    return (
        f"{now}, {os.cpu_count()} CPUs, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    )


def measure(script: Path) -> Section | None:
    """Run one benchmark; None when it failed, after showing why."""
    print(f"bench: {script.stem}", file=sys.stderr, flush=True)
    try:
        run = subprocess.run(
            [sys.executable, script, "--json"], stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT_S
        )
        answer: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
        text = f"{answer['title']} ({machine()})\n\n{table(answer['rows'])}"
    except (subprocess.SubprocessError, ValueError, LookupError) as error:
        print(f"bench: {script.stem} failed: {error!r}", file=sys.stderr)
        return None
    return Section(script.stem, text)


def read_page() -> dict[str, Section]:
    """Return the sections of the page as it is, so that a partial run replaces only its own."""
    if not RESULTS.exists():
        return {}
    parts = RESULTS.read_text().split("\n## ")[1:]
    sections = (Section(name.strip(), text.strip()) for name, _, text in (part.partition("\n") for part in parts))
    return {section.name: section for section in sections}


def write_page(sections: Mapping[str, Section]) -> None:
    body = "".join(f"\n## {section.name}\n\n{section.text}\n" for _, section in sorted(sections.items()))
    RESULTS.write_text(PREAMBLE + body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the benchmarks and write bench/results.md.")
    parser.add_argument("names", nargs="*", help="benchmarks to run; all of them when none is named")
    chosen = scripts(parser.parse_args().names)
    measured = [measure(script) for script in chosen]
    fresh = {section.name: section for section in measured if section is not None}
    write_page(read_page() | fresh)
    print(f"bench: {len(fresh)} of {len(chosen)} written to {RESULTS.relative_to(BENCH.parent)}")
    if None in measured:
        sys.exit(1)


if __name__ == "__main__":
    main()
