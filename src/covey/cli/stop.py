"""`covey stop NAME`: stop teammates and say what it took."""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from covey.cli.main import complain
from covey.cli.options import Parser, add_hub_options, hub_address
from covey.cli.text import printable
from covey.errors import CoveyError, HubUnreachableError

if TYPE_CHECKING:
    from covey.client.address import Address
    from covey.client.connect import Stopped

TIMEOUT_MAX_S = 60.0


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    parser = Parser("stop", "Stop sessions and other teammates. What a session holds in memory is gone then.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="as `covey ps` lists them")
    parser.add_argument(
        "--timeout", type=_seconds, default=5.0, metavar="S", help="how long each may take before it is killed (5)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array of what was stopped")
    add_hub_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Stop each one; one that can't be stopped does not keep the others."""
    import msgspec

    stopped, failed = asyncio.run(_stop(hub_address(arguments), arguments.names, timeout_s=arguments.timeout))
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(stopped)).decode())
    else:
        for report in stopped:
            steps = f" ({', '.join(report.steps)})" if report.steps else ""
            print(printable(f"{report.name} {report.state}{steps}"))
    for error in failed:
        complain(f"{error.message}: {error.hint or 'see `covey ps`'}")
    return 1 if failed else 0


async def _stop(address: Address, names: Sequence[str], *, timeout_s: float) -> tuple[list[Stopped], list[CoveyError]]:
    from covey.client.connect import Hub

    stopped: list[Stopped] = []
    failed: list[CoveyError] = []
    async with Hub(address) as hub:
        for name in names:
            try:
                stopped.append(await hub.stop(name, timeout_s=timeout_s))
            except HubUnreachableError:
                raise
            except CoveyError as error:
                failed.append(error)
    return stopped, failed


def _seconds(text: str) -> float:
    try:
        value = float(text[:40])
    except ValueError:
        value = math.nan
    if not 0 <= value <= TIMEOUT_MAX_S:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of seconds from 0 to {TIMEOUT_MAX_S:g}")
    return value
