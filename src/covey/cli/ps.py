"""`covey ps`: who is on the hub."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from covey.cli.options import Parser, add_hub_options, hub_address, say
from covey.cli.text import table

if TYPE_CHECKING:
    from covey.client.address import Address
    from covey.client.connect import TeammateRow


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    parser = Parser("ps", "List who is on the hub: sessions and other teammates.")
    parser.add_argument("--json", action="store_true", help="print a JSON array instead of a table")
    add_hub_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Ask for the roster and print it."""
    import msgspec

    rows = asyncio.run(_roster(hub_address(arguments)))
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(rows)).decode())
    elif rows:
        cells = [(row.name, row.kind, row.state, row.place, row.stream) for row in rows]
        sys.stdout.write(table(("NAME", "KIND", "STATE", "PLACE", "STREAM"), cells))
    else:
        say("nobody is on this hub yet: start a session with `covey repl`")
    return 0


async def _roster(address: Address) -> list[TeammateRow]:
    from covey.client.connect import Hub

    async with Hub(address) as hub:
        return await hub.roster()
