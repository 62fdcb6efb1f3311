"""The roster over HTTP: who is there, spawn, stop. Source: protocol 3."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from covey.errors import InvalidInputError
from covey.hub.http import Answer, Request, json_response
from covey.team.members import Member, Team

STOP_TIMEOUT_S: Final = 5.0
STOP_TIMEOUT_MAX_S: Final = 60.0


class SpawnBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to spawn, and under which name."""

    kind: str
    name: str | None = None


class TeammateRoutes:
    """Handlers of ``/v1/teammates``."""

    def __init__(self, team: Team) -> None:
        self._team = team

    async def index(self, request: Request) -> Answer:  # noqa: ARG002 -- a handler
        """``GET /v1/teammates``."""
        return json_response({"teammates": [_row(member) for member in self._team.members()]})

    async def show(self, request: Request, name: str) -> Answer:  # noqa: ARG002 -- a handler
        """``GET /v1/teammates/{name}``: its row, and its methods with their arguments."""
        member = self._team.get(name)
        methods = [
            {
                "name": method.name,
                "summary": method.summary,
                "arguments": {
                    parameter.name: {
                        "required": parameter.is_required,
                        "schema": msgspec.json.schema(parameter.annotation),
                    }
                    for parameter in method.parameters
                },
            }
            for method in member.methods.values()
        ]
        return json_response({**_row(member), "methods": methods})

    async def spawn(self, request: Request) -> Answer:
        """``POST /v1/teammates``: make one of a kind the operator allowed."""
        body = await request.json(SpawnBody)
        member = await self._team.spawn(body.kind, body.name)
        # The cursor is where its output begins, not where it is by now: whoever spawned it misses nothing.
        stream = self._team.streams.get(member.stream)
        return json_response({"name": member.name, "stream": member.stream, "cursor": stream.start}, status=201)

    async def stop(self, request: Request, name: str) -> Answer:
        """``DELETE /v1/teammates/{name}``: stop it, escalating after ``timeout_s``, and tell what it took."""
        report = await self._team.stop(name, timeout_s=_timeout_s(request))
        return json_response({"name": name, "state": "stopped", **msgspec.to_builtins(report)})


def _row(member: Member) -> dict[str, object]:
    return {
        "name": member.name,
        "kind": member.kind,
        "state": member.state,
        "place": member.place,
        "stream": member.stream,
    }


def _timeout_s(request: Request) -> float:
    text = request.query.get("timeout_s")
    if text is None:
        return STOP_TIMEOUT_S
    try:
        timeout_s = float(text[:32])
    except ValueError:
        timeout_s = math.nan
    if not 0 <= timeout_s <= STOP_TIMEOUT_MAX_S:
        raise InvalidInputError(f"timeout_s={text[:40]!r} is not a number of seconds from 0 to {STOP_TIMEOUT_MAX_S:g}")
    return timeout_s
