"""What hedges, deadlines that travel, and the failure detector are worth, each beside doing without it.

As in ``brownout.py``, only the services and the network are simulated. Three experiments:

- *hedge*: a service whose answers take 50 ms in the mean, but one in fifty a second longer.
- *hops*: a client, a front, a middle and a store with half of its capacity; either each hop tells the next how much
  time is left and who repeats, or each begins with a deadline and attempts of its own.
- *detector*: a peer that is heard every second over a network that loses a fifth, and that stalls for five seconds ten
  times an hour; phi accrual beside a fixed limit of five seconds. Then it dies.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.brownout import CAPACITY_PER_S, DEFAULT, HALF, LOAD, Receiver, Service, Setup, figures, simulate

from covey.context import detached, remaining_s, until
from covey.resilience import Detector, Hedge, Policy, Target
from covey.resilience.deadline import passed_on_ms
from covey.resilience.detector import DetectorState, Life
from covey.testing import SimWorld
from covey.testing.randomness import SeededRandomness

Row = dict[str, object]


# ---- hedge
CALLS: Final = 3000
CALLS_PER_S: Final = 50.0
SLOW_SHARE: Final = 0.02
SLOW_S: Final = 1.0


@dataclass
class Latency:
    took_s: list[float] = field(default_factory=list)
    requests: int = 0


def ask_a_slow_tail(seed: int, policy: Policy) -> Latency:
    world, chance, found = SimWorld(seed), random.Random(seed), Latency()

    async def serve() -> None:
        found.requests += 1
        await asyncio.sleep(chance.expovariate(20.0) + (SLOW_S if chance.random() < SLOW_SHARE else 0.0))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        target = Target("slow", policy, randomness=SeededRandomness(seed)).options(idempotent=True)

        async def call() -> None:
            began_s = loop.time()
            await target.call(serve)
            found.took_s.append(loop.time() - began_s)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLS):
                await asyncio.sleep(chance.expovariate(CALLS_PER_S))
                tasks.create_task(call())

    world.run(main)
    return found


def hedge_rows(seeds: int) -> list[Row]:
    without, with_hedge = (
        [ask_a_slow_tail(seed, policy) for seed in range(seeds)] for policy in (Policy(), Policy(hedge=Hedge()))
    )
    hedged = Setup("hedged", Policy(timeout_s=5.0, attempt_timeout_s=1.0, hedge=Hedge()), DEFAULT.receiver)
    halved = [
        [figures(simulate(setup, HALF, seed), HALF) for seed in range(max(seeds // 5, 1))]
        for setup in (DEFAULT, hedged)
    ]
    return [
        line("hedge: p50, ms", *(1000 * of_all(runs, 50) for runs in (without, with_hedge))),
        line("hedge: p99, ms", *(1000 * of_all(runs, 99) for runs in (without, with_hedge))),
        line(
            "hedge: requests per call",
            *(sum(run.requests for run in runs) / CALLS / len(runs) for runs in (without, with_hedge)),
        ),
        line(
            "hedge in a brown-out to half: use %",
            *(100 * statistics.median(one.use for one in runs) for runs in halved),
        ),
        line(
            "hedge in a brown-out to half: worst recovery, s",
            *(max((30.0 if one.recovery_s is None else one.recovery_s) for one in runs) for runs in halved),
        ),
    ]


def of_all(runs: list[Latency], percent: int) -> float:
    return statistics.quantiles([took_s for run in runs for took_s in run.took_s], n=100)[percent - 1]


# ---- hops
HOP_SECONDS: Final = 30.0
PATIENCE_S: Final = 1.0


@dataclass
class Hops:
    calls: int = 0
    good: int = 0
    served: int = 0
    wasted: int = 0
    store_requests: int = 0


@contextmanager
def arriving(left_ms: int | None, now_s: float) -> Generator[None]:
    """Begin to serve a request as its receiver does, from what the wire says; without that, anew."""
    with detached():
        if left_ms is None:
            yield
        else:
            with until(now_s + left_ms / 1000):
                yield


def chain(seed: int, *, is_carried: bool) -> Hops:
    """Have a store with half of its capacity called over two hops that do not see when their caller gives up."""
    world, chance, found = SimWorld(seed), random.Random(seed), Hops()
    # As most services are: without a bound to their queue.
    policy = Policy(timeout_s=5.0, attempt_timeout_s=5.0, breaker=None, limit=None)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        store = Service(loop, chance, Receiver(is_heeding=is_carried))
        store.change(0.5)
        front, middle, last = (
            Target(name, policy, randomness=SeededRandomness(f"{seed}/{name}")).options(idempotent=True)
            for name in ("front", "middle", "store")
        )

        async def over_the_wire(work: Callable[[], Awaitable[None]]) -> None:
            left_ms = passed_on_ms(remaining_s(now_s=loop.time())) if is_carried else None
            with arriving(left_ms, loop.time()):
                serving = asyncio.ensure_future(work())
            await asyncio.shield(serving)

        async def call() -> None:
            gone_s = loop.time() + PATIENCE_S

            async def serve_middle() -> None:
                await asyncio.sleep(chance.expovariate(50.0))
                await last.call(store.ask)
                found.served += 1
                found.wasted += loop.time() > gone_s

            async def serve_front() -> None:
                await asyncio.sleep(chance.expovariate(50.0))
                await middle.call(over_the_wire, serve_middle)

            found.calls += 1
            try:
                with until(gone_s):
                    await front.call(over_the_wire, serve_front)
                found.good += 1
            except Exception:  # noqa: BLE001, S110 -- what did not go well is what is left of all calls
                pass

        loop.set_exception_handler(lambda *_: None)  # errors of hops whose caller has gone are nobody's
        end_s = loop.time() + HOP_SECONDS
        async with asyncio.TaskGroup() as tasks:
            while loop.time() < end_s:
                await asyncio.sleep(chance.expovariate(LOAD * CAPACITY_PER_S))
                tasks.create_task(call())
        found.store_requests = len(store.sent_at_s)

    world.run(main)
    return found


def stacked(*, is_told: bool) -> int:
    """Return how many requests reach a store that always fails, through three policies of three attempts each."""
    world, requests = SimWorld(0), 0

    async def fail() -> None:
        nonlocal requests
        requests += 1
        raise ConnectionRefusedError

    async def main() -> None:
        policy = Policy(breaker=None)
        call: Callable[[], Awaitable[None]] = fail
        for name in ("store", "middle", "front"):
            call = through(Target(name, policy), call, is_told=is_told)
        try:
            await call()
        except ConnectionRefusedError:
            return

    world.run(main)
    return requests


def through(target: Target, call: Callable[[], Awaitable[None]], *, is_told: bool) -> Callable[[], Awaitable[None]]:
    async def hop() -> None:
        if is_told:
            await target.call(call)
        else:
            with detached():
                await target.call(call)

    return hop


def hop_rows(seeds: int) -> list[Row]:
    few = max(seeds // 5, 1)
    without, carried = ([chain(seed, is_carried=is_carried) for seed in range(few)] for is_carried in (False, True))
    return [
        line("3 hops: calls that went well %", *(share(runs, "good", "calls") for runs in (without, carried))),
        line("3 hops: served for nobody %", *(share(runs, "wasted", "served") for runs in (without, carried))),
        line("3 stacked policies, dead store: requests", *(stacked(is_told=is_told) for is_told in (False, True))),
    ]


def share(runs: list[Hops], part: str, whole: str) -> float:
    parts, wholes = ([getattr(run, name) for run in runs] for name in (part, whole))
    return float(100 * sum(parts) / max(sum(wholes), 1))


# ---- detector
HOUR_S: Final = 3600.0
LOSS: Final = 0.2
STALLS: Final = 10
STALL_S: Final = 5.0
FIXED_S: Final = 5.0
LOOK_S: Final = 0.25


@dataclass
class Watched:
    suspicions: int = 0
    deaths: int = 0
    suspected_after_s: float = 0.0
    dead_after_s: float = 0.0


def beats(seed: int) -> list[float]:
    """Return when a peer is heard in an hour."""
    chance = random.Random(seed)
    stalls = sorted(chance.uniform(60.0, HOUR_S - 60.0) for _ in range(STALLS))
    heard: list[float] = []
    sent_s = 0.0
    while sent_s < HOUR_S:
        if chance.random() >= LOSS:
            heard.append(sent_s + chance.expovariate(20.0))
        sent_s += 1.0
        if stalls and sent_s >= stalls[0]:
            sent_s += STALL_S
            stalls.pop(0)
    return sorted(heard)


def watch(seed: int, confirmations: int) -> Watched:
    found, heard = Watched(), beats(seed)
    peer = DetectorState(Detector(), now_s=0.0)
    at, look_s = 0, 0.0
    while not found.dead_after_s:
        look_s += LOOK_S
        while at < len(heard) and heard[at] <= look_s:
            peer.heard(heard[at])
            at += 1
        moved = peer.advance(look_s)
        is_over = at == len(heard)
        if moved is Life.SUSPECT and is_over:
            found.suspected_after_s = look_s - heard[-1]
            for number in range(confirmations):
                peer.confirmed(f"other {number}")
        elif moved is Life.DEAD and is_over:
            found.dead_after_s = look_s - heard[-1]
        elif moved is Life.SUSPECT:
            found.suspicions += 1
        elif moved is Life.DEAD:
            found.deaths += 1
    return found


def fixed_suspicions(seed: int) -> int:
    heard = beats(seed)
    return sum(later - earlier > FIXED_S for earlier, later in itertools.pairwise(heard))


def detector_rows(seeds: int) -> list[Row]:
    alone, confirmed = ([watch(seed, confirmations) for seed in range(seeds)] for confirmations in (0, 2))
    fixed = statistics.mean(fixed_suspicions(seed) for seed in range(seeds))
    return [
        line("detector: false suspicions an hour", fixed, statistics.mean(one.suspicions for one in alone)),
        line("detector: false deaths in all hours", None, sum(one.deaths for one in alone)),
        line("detector: suspect after, s", FIXED_S, statistics.median(one.suspected_after_s for one in alone)),
        line("detector: dead after, if two agree, s", None, statistics.median(one.dead_after_s for one in confirmed)),
        line("detector: dead after, nobody else to ask, s", None, statistics.median(one.dead_after_s for one in alone)),
    ]


def line(what: str, without: float | None, with_it: float) -> Row:
    return {"what": what, "without": without, "with": with_it}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure hedges, deadlines over hops, and the failure detector.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    rows = [*hedge_rows(options.seeds), *hop_rows(options.seeds), *detector_rows(options.seeds)]
    if options.json:
        print(json.dumps({"title": f"Hedges, hops and the detector, {options.seeds} seeds", "rows": rows}))
        return
    for row in rows:
        cells = ("-" if row[side] is None else f"{row[side]:.3g}" for side in ("without", "with"))
        print(f"{row['what']:<50}", *(f"{cell:>10}" for cell in cells))


if __name__ == "__main__":
    main()
