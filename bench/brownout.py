"""What a fleet of callers does to a service that loses capacity for ten seconds, under one policy after another.

A service with 20 workers at 80 % load loses half of its capacity, or all but 2 % of it, or all. Ten clients go on
calling it. The service is simulated; the policies are not: every call goes through a real ``Target``, and the service
decides by a real ``Admission``, in a ``SimWorld`` whose clock jumps. Naive retries run beside the others as a control:
a simulation in which they recover shows nothing.

What the columns say. *use*: results in time, of what the service could do in the outage; above 100 where it still had
work from before. *amplification*: requests per call in the outage, below 1 where clients hold calls back; *peak*: the
same for the busiest second, beside the load. *recovery*: after so long 95 % of calls went well for good; *quick again*:
after so long they took as long as before. *told after*: how long a call that failed had waited.

``--plot docs/images/brownout.svg`` draws the picture in docs/guides/failures.md (needs matplotlib).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import statistics
import sys
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from covey.context import remaining_s
from covey.errors import ExpiredError, RefusedError
from covey.resilience import Backoff, Breaker, Budget, Limit, Policy, Target
from covey.resilience.admission import Admission
from covey.resilience.deadline import passed_on_ms
from covey.testing import SimWorld
from covey.testing.randomness import SeededRandomness

WORKERS: Final = 20
SERVICE_S: Final = 0.05
CAPACITY_PER_S: Final = WORKERS / SERVICE_S
LOAD: Final = 0.8
CLIENTS: Final = 10
FAILURES: Final = 0.01
# What an ordinary service has: a queue so long that nobody thought about it.
BACKLOG_MAX: Final = 2000
ATTEMPT_TIMEOUT_S: Final = 1.0
TIMEOUT_S: Final = 5.0

WARM_UP_S: Final = 10.0
OUTAGE_S: Final = 10.0
BACK_S: Final = WARM_UP_S + OUTAGE_S
LATE_S: Final = BACK_S + 10.0
END_S: Final = BACK_S + 30.0
# How finely recovery is told, and what counts as having recovered.
STEP_S: Final = 0.5
RECOVERED_SHARE: Final = 0.95
# And of how many times the usual service time calls are called quick.
QUICK: Final = 4
NEVER: Final = f"not in {END_S - BACK_S:.0f}"


@dataclass(frozen=True)
class Receiver:
    """What the service does about too much work: a bounded queue, heed to deadlines, both, or nothing."""

    is_bounded: bool = False
    is_heeding: bool = False


@dataclass(frozen=True)
class Setup:
    name: str
    policy: Policy
    receiver: Receiver = Receiver()


@dataclass(frozen=True)
class Outage:
    name: str
    speed: float


HALF: Final = Outage("half", 0.5)
NEARLY_DEAD: Final = Outage("2 %", 0.02)
DEAD: Final = Outage("none", 0.0)
OUTAGES: Final = (HALF, NEARLY_DEAD, DEAD)

# No wait at all before a repeat; 0 would be refused, and rightly.
AT_ONCE: Final = Backoff(first_s=1e-6, cap_s=1e-6)
BOTH: Final = Receiver(is_bounded=True, is_heeding=True)


def policy(
    *,
    attempts_max: int = 3,
    backoff: Backoff = Backoff(),  # noqa: B008 -- frozen: one value may serve all
    budget: Budget | None = None,
    breaker: Breaker | None = None,
    limit: Limit | None = None,
) -> Policy:
    """Return a policy with only those layers that it is given."""
    return Policy(
        timeout_s=TIMEOUT_S,
        attempt_timeout_s=ATTEMPT_TIMEOUT_S,
        attempts_max=attempts_max,
        backoff=backoff,
        budget=budget,
        breaker=breaker,
        limit=limit,
    )


NO_RETRY: Final = Setup("no retries", policy(attempts_max=1))
NAIVE: Final = Setup("naive: 3 attempts at once", policy(backoff=AT_ONCE))
JITTER: Final = Setup("backoff with jitter", policy())
BUDGET: Final = Setup("jitter, budget 10 %", policy(budget=Budget()))
# Covey's defaults, but for the times of this experiment.
DEFAULT: Final = Setup(
    "covey: default policy, Admission", Policy(timeout_s=TIMEOUT_S, attempt_timeout_s=ATTEMPT_TIMEOUT_S), BOTH
)
SETUPS: Final = (
    NO_RETRY,
    NAIVE,
    JITTER,
    BUDGET,
    Setup("jitter, budget 20 %", policy(budget=Budget(ratio=0.2))),
    Setup("jitter, breaker", policy(breaker=Breaker())),
    Setup("jitter, limit", policy(limit=Limit())),
    Setup("jitter, deadline heeded", policy(), Receiver(is_heeding=True)),
    Setup("jitter, bounded queue", policy(), Receiver(is_bounded=True)),
    Setup("budget, Admission", policy(budget=Budget()), BOTH),
    Setup("default policy, plain service", DEFAULT.policy),
    DEFAULT,
)


@dataclass
class Job:
    answer: asyncio.Future[None]
    due_s: float
    work_s: float
    begun_s: float = 0.0
    resumed_s: float = 0.0
    timer: asyncio.TimerHandle | None = None


class Service:
    """Workers behind one queue. It goes on with what its caller has given up, as it does not hear of that."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chance: random.Random, receiver: Receiver) -> None:
        self._loop = loop
        self._chance = chance
        self._receiver = receiver
        self._admission = Admission(workers=WORKERS)
        self._queue: deque[Job] = deque()
        self._running: dict[int, Job] = {}
        self._speed = 1.0
        self.sent_at_s: list[float] = []

    async def ask(self) -> None:
        now_s = self._loop.time()
        self.sent_at_s.append(now_s)
        left_ms = passed_on_ms(remaining_s(now_s=now_s))
        due_s = now_s + left_ms / 1000 if left_ms is not None else float("inf")
        job = Job(self._loop.create_future(), due_s, self._chance.expovariate(1 / SERVICE_S))
        self._receive(job)
        await job.answer

    def change(self, speed: float) -> None:
        """Work at another speed from now on, also on what is being worked on."""
        for job in self._running.values():
            self._pause(job)
        self._speed = speed
        for job in self._running.values():
            self._resume(job)
        self._begin()

    def _receive(self, job: Job) -> None:
        queued = len(self._queue)
        if queued >= BACKLOG_MAX:
            raise RefusedError("the backlog is full")
        if self._receiver.is_bounded:
            left_s = job.due_s - self._loop.time() if self._receiver.is_heeding else None
            refusal = self._admission.refuses(queued=queued, remaining_s=left_s)
            if refusal is not None and refusal.reason == "hopeless":
                raise ExpiredError("it would not finish in time")
            if refusal is not None:
                raise RefusedError(refusal.reason, retry_after_s=refusal.retry_after_s)
        self._queue.append(job)
        self._begin()

    def _begin(self) -> None:
        now_s = self._loop.time()
        while self._queue and len(self._running) < WORKERS:
            job = self._queue.popleft()
            if self._is_hopeless(job, now_s):
                if not job.answer.done():
                    job.answer.set_exception(ExpiredError("it could not finish in time"))
                continue
            job.begun_s = now_s
            self._running[id(job)] = job
            self._resume(job)

    def _is_hopeless(self, job: Job, now_s: float) -> bool:
        return self._receiver.is_heeding and self._admission.is_hopeless(
            remaining_s=job.due_s - now_s, queued=len(self._queue)
        )

    def _resume(self, job: Job) -> None:
        job.resumed_s = self._loop.time()
        if self._speed > 0:
            job.timer = self._loop.call_later(job.work_s / self._speed, self._done, job)

    def _pause(self, job: Job) -> None:
        job.work_s -= (self._loop.time() - job.resumed_s) * self._speed
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

    def _done(self, job: Job) -> None:
        del self._running[id(job)]
        self._admission.served(self._loop.time() - job.begun_s)
        if not job.answer.done():
            if self._chance.random() < FAILURES:
                job.answer.set_exception(ConnectionResetError("it failed, as things do"))
            else:
                job.answer.set_result(None)
        self._begin()


@dataclass
class Run:
    """What happened in one run, in seconds since its start."""

    calls: list[tuple[float, float, bool]] = field(default_factory=list)  # began, ended, went well
    sent_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def simulate(setup: Setup, outage: Outage, seed: int) -> Run:
    world = SimWorld(seed)
    chance = random.Random(f"{seed}/service")
    run = Run()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        service = Service(loop, chance, setup.receiver)
        targets = [
            Target(f"client {number}", setup.policy, randomness=SeededRandomness(f"{seed}/{number}")).options(
                idempotent=True
            )
            for number in range(CLIENTS)
        ]

        async def call(target: Target) -> None:
            began_s = loop.time()
            is_ok = False
            try:
                await target.call(service.ask)
                is_ok = True
            except Exception as error:  # noqa: BLE001 -- whatever it is, the caller has no result
                run.errors[type(error).__name__] += 1
            run.calls.append((began_s - start_s, loop.time() - start_s, is_ok))

        loop.call_later(WARM_UP_S, service.change, outage.speed)
        loop.call_later(BACK_S, service.change, 1.0)
        arrivals = random.Random(f"{seed}/arrivals")
        async with asyncio.TaskGroup() as tasks:
            while loop.time() - start_s < END_S:
                await asyncio.sleep(arrivals.expovariate(LOAD * CAPACITY_PER_S))
                tasks.create_task(call(arrivals.choice(targets)))
        run.sent_s = [sent_s - start_s for sent_s in service.sent_at_s]

    world.run(main)
    return run


@dataclass(frozen=True)
class Figures:
    """One run in figures; see ``COLUMNS`` for what they mean."""

    use: float
    amplification: float
    peak: float
    amplification_late: float
    recovery_s: float | None
    late_success: float
    quick_s: float | None
    told_s: float
    goodput: list[float]


def figures(run: Run, outage: Outage) -> Figures:
    good_ends = [ended_s for _, ended_s, is_ok in run.calls if is_ok]
    began = [began_s for began_s, _, _ in run.calls]
    late = [is_ok for began_s, _, is_ok in run.calls if began_s >= LATE_S]
    told = [ended - began for began, ended, is_ok in run.calls if not is_ok and WARM_UP_S <= began < BACK_S]
    during = count_in(good_ends, WARM_UP_S, BACK_S)
    sent_each_s = per_step(run.sent_s, 1.0)
    return Figures(
        use=during / (outage.speed * CAPACITY_PER_S * OUTAGE_S) if outage.speed else 0.0,
        amplification=count_in(run.sent_s, WARM_UP_S, BACK_S) / count_in(began, WARM_UP_S, BACK_S),
        peak=max(sent_each_s[int(WARM_UP_S) :]) / (LOAD * CAPACITY_PER_S),
        amplification_late=count_in(run.sent_s, LATE_S, END_S) / count_in(began, LATE_S, END_S),
        recovery_s=recovery_s(run),
        late_success=sum(late) / len(late),
        quick_s=quick_s(run),
        told_s=statistics.median(told) if told else 0.0,
        goodput=[count / STEP_S for count in per_step(good_ends, STEP_S)],
    )


def count_in(moments_s: Iterable[float], begin_s: float, end_s: float) -> int:
    return sum(begin_s <= moment_s < end_s for moment_s in moments_s)


def per_step(moments_s: Iterable[float], step_s: float) -> list[int]:
    counts = [0] * int(END_S / step_s)
    for moment_s in moments_s:
        if moment_s < END_S:
            counts[int(moment_s / step_s)] += 1
    return counts


def recovery_s(run: Run) -> float | None:
    """Return how long after the outage calls began to go well for good; None: not within the run."""
    begun, good = [0] * int(END_S / STEP_S), [0] * int(END_S / STEP_S)
    for began_s, _, is_ok in run.calls:
        if began_s < END_S:
            begun[int(began_s / STEP_S)] += 1
            good[int(began_s / STEP_S)] += is_ok
    first = int(BACK_S / STEP_S)
    bad = [at for at in range(first, len(begun)) if good[at] < RECOVERED_SHARE * begun[at]]
    if bad and bad[-1] >= len(begun) - 1 - int(1 / STEP_S):
        return None
    return (bad[-1] + 1 - first) * STEP_S if bad else 0.0


def quick_s(run: Run) -> float | None:
    """Return how long after the outage calls began to be as quick as before, by the median; None: not in the run."""
    took_s: list[list[float]] = [[] for _ in range(int(END_S / STEP_S))]
    for began_s, ended_s, is_ok in run.calls:
        if began_s < END_S:
            took_s[int(began_s / STEP_S)].append(ended_s - began_s if is_ok else TIMEOUT_S)
    first = int(BACK_S / STEP_S)
    slow = [at for at in range(first, len(took_s)) if statistics.median(took_s[at]) > QUICK * SERVICE_S]
    if slow and slow[-1] >= len(took_s) - 1 - int(1 / STEP_S):
        return None
    return (slow[-1] + 1 - first) * STEP_S if slow else 0.0


def measured(task: tuple[Setup, Outage, int]) -> Figures:
    setup, outage, seed = task
    return figures(simulate(setup, outage, seed), outage)


def median_of(times_s: Sequence[float | None]) -> float | str:
    """Return the median, where None is longer than the run."""
    known = sorted(time_s for time_s in times_s if time_s is not None)
    middle = len(times_s) // 2
    return known[middle] if middle < len(known) else NEVER


def row(setup: Setup, outage: Outage, found: Sequence[Figures]) -> dict[str, object]:
    """Return one line: medians, beside the worst of what shall hold in every run."""
    recoveries = [one.recovery_s for one in found]
    return {
        "capacity left": outage.name,
        "policy": setup.name,
        "use %": 100 * statistics.median(one.use for one in found) if outage.speed else None,
        "amplification": statistics.median(one.amplification for one in found),
        "peak": statistics.median(one.peak for one in found),
        "worst peak": max(one.peak for one in found),
        "10 s later": statistics.median(one.amplification_late for one in found),
        "recovery s": median_of(recoveries),
        "worst recovery s": max((one for one in recoveries if one is not None), default=0.0)
        if None not in recoveries
        else NEVER,
        "late success %": 100 * statistics.mean(one.late_success for one in found),
        "quick again s": median_of([one.quick_s for one in found]),
        "told after s": statistics.median(one.told_s for one in found),
        "seeds": len(found),
    }


Measured = dict[tuple[Outage, Setup], list[Figures]]


def measure(seeds: int, processes: int, only: str) -> Measured:
    """Run everything: what the goals are about, and its control, with all seeds, the rest with a tenth of them."""
    found: Measured = {}
    with multiprocessing.Pool(processes) as pool:
        for outage in OUTAGES:
            for setup in (setup for setup in SETUPS if only in setup.name):
                is_full = setup is DEFAULT or (setup is NAIVE and outage is HALF)
                count = seeds if is_full else max(seeds // 10, 1)
                tasks = [(setup, outage, seed) for seed in range(count)]
                found[outage, setup] = pool.map(measured, tasks, chunksize=1)
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def plot(found: Measured, path: Path) -> None:
    """Draw what callers got over time while capacity was halved; each line is the median of its seeds."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "brownout", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11}
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8.4, 4.0), layout="constrained")
    figure.patch.set_facecolor("white")
    axes.axvspan(0, OUTAGE_S, color="#f0eeea", zorder=0, linewidth=0)
    axes.text(OUTAGE_S / 2, 455, "half of the capacity", ha="center", color="#6b665e")
    axes.axhline(LOAD * CAPACITY_PER_S, color="#9a948a", linewidth=1, linestyle=(0, (2, 3)))
    axes.text(END_S - WARM_UP_S, LOAD * CAPACITY_PER_S - 8, "load", ha="right", va="top", color="#6b665e")
    for setup, label, color, dashes in LINES:
        runs = [one.goodput for one in found[HALF, setup]]
        goodput = [statistics.median(step) for step in zip(*runs, strict=True)]
        at_s = [(step + 0.5) * STEP_S - WARM_UP_S for step in range(len(goodput))]
        axes.plot(at_s, goodput, color=color, linewidth=2, label=label, linestyle=dashes)
    axes.set(xlim=(-5, END_S - WARM_UP_S), ylim=(0, 480), xlabel="seconds since half of the capacity went")
    axes.set_ylabel("calls that went well, per second")
    axes.legend(frameon=False, loc="center", bbox_to_anchor=(0.55, 0.36))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


LINES: Final = (
    (NAIVE, "3 attempts at once", "#b5382a", "-"),
    (JITTER, "backoff with jitter", "#d98c21", (0, (4, 2))),
    (BUDGET, "jitter, budget 10 %", "#7a7fb0", "-"),
    (DEFAULT, "covey's defaults", "#1d6f5c", "-"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate brown-outs under one policy after another.")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="only policies with this in their name")
    parser.add_argument("--plot", type=Path, help="where to draw goodput over time, as SVG")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    found = measure(options.seeds, options.processes, options.only)
    if options.plot is not None:
        plot(found, options.plot)
    rows = [row(setup, outage, figures) for (outage, setup), figures in found.items()]
    if options.json:
        title = f"Brown-outs of {OUTAGE_S:.0f} s at {LOAD:.0%} load, {CLIENTS} clients"
        print(json.dumps({"title": title, "rows": rows}))
        return
    for line in rows:
        print("  ".join(f"{name} {shown(value)}" for name, value in line.items()))


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


if __name__ == "__main__":
    main()
