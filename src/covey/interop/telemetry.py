"""Hooks that pass on what policies tell: to `logging`, OpenTelemetry and Prometheus.

Each is given to ``Policy(on_event=...)`` or ``Target.listen``. Names follow the semantic conventions of OpenTelemetry
where there are any (``error.type``); what is covey's own begins with ``covey.``.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from covey.resilience.events import Hook, Kind, PolicyEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Tracer
    from prometheus_client import CollectorRegistry

# What an operator should see is a warning; what explains it is there for those who look.
_LEVELS: Final[Mapping[Kind, int]] = {
    "open": logging.WARNING,
    "shed": logging.WARNING,
    "suppressed": logging.WARNING,
    "suspect": logging.WARNING,
    "dead": logging.WARNING,
    "half_open": logging.INFO,
    "close": logging.INFO,
    "retry": logging.INFO,
}
_DESCRIPTION_MAX: Final = 200
_FACTS: Final = ("attempt", "took_s", "wait_s", "value", "reason", "verdict")


def log_events(logger: logging.Logger | None = None) -> Hook:
    """Return a hook that writes a line for each event, to the logger ``covey.policy`` unless another is given.

    The fields of the event are also attributes of the record, as ``covey``.
    """
    log = logger or logging.getLogger("covey.policy")

    def hook(event: PolicyEvent) -> None:
        level = _LEVELS.get(event.kind, logging.DEBUG)
        if not log.isEnabledFor(level):
            return
        facts = {name: value for name in _FACTS if (value := getattr(event, name)) is not None}
        told = " ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in facts.items()
        )
        error = f" error={event.error!r:.200}" if event.error is not None else ""
        log.log(level, "%s: %s %s%s", event.target, event.kind, told, error, extra={"covey": event})

    return hook


def count_with_opentelemetry(meter: Meter | None = None) -> Hook:
    """Return a hook that keeps ``covey.policy.events`` and ``covey.policy.attempt.duration``; needs ``covey[otel]``.

    Attributes: ``covey.target``, and where they apply ``covey.event``, ``covey.reason``, ``covey.verdict`` and
    ``error.type``, the status of an HTTP answer or else the name of the error's class.
    """
    from opentelemetry.metrics import get_meter

    source = meter or get_meter("covey")
    events = source.create_counter("covey.policy.events", "{event}", "What policies told, by kind and reason.")
    durations = source.create_histogram("covey.policy.attempt.duration", "s", "How long attempts took.")

    def hook(event: PolicyEvent) -> None:
        attributes = {"covey.target": event.target}
        if event.verdict is not None:
            attributes["covey.verdict"] = event.verdict
        if event.error is not None:
            attributes["error.type"] = _type_of(event.error)
        if event.took_s is not None:
            durations.record(event.took_s, attributes)
        events.add(1, attributes | {"covey.event": event.kind} | _reason(event, "covey.reason"))

    return hook


def trace_with_opentelemetry(tracer: Tracer | None = None) -> Hook:
    """Return a hook that records attempts as spans, and all else as events of the caller's span; needs ``covey[otel]``.

    The span of an attempt is made when that is over, with the times that it had: what was traced inside the attempt
    stands beside it, under the caller's span.
    """
    from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span, get_tracer

    source = tracer or get_tracer("covey")

    def hook(event: PolicyEvent) -> None:
        attributes: dict[str, str | float] = {"covey.target": event.target}
        attributes |= {f"covey.{name}": fact for name in _FACTS if (fact := getattr(event, name)) is not None}
        if event.error is not None:
            attributes["error.type"] = _type_of(event.error)
        if event.kind != "attempt" or event.took_s is None:
            get_current_span().add_event(f"covey.{event.kind}", attributes)
            return
        ended_ns = time.time_ns()
        began_ns = ended_ns - int(event.took_s * 1e9)
        name = f"attempt {event.target}"
        span = source.start_span(name, kind=SpanKind.CLIENT, start_time=began_ns, attributes=attributes)
        if event.error is not None:
            span.set_status(Status(StatusCode.ERROR, str(event.error)[:_DESCRIPTION_MAX]))
        span.end(ended_ns)

    return hook


def count_with_prometheus(registry: CollectorRegistry | None = None) -> Hook:
    """Return a hook that keeps ``covey_policy_events_total`` and ``covey_policy_attempt_seconds``.

    One for a registry: its metrics are registered by name. Needs ``covey[otel]``.
    """
    from prometheus_client import REGISTRY, Counter, Histogram

    kept = registry or REGISTRY
    events = Counter(
        "covey_policy_events", "What policies told, by kind and reason.", ("target", "event", "reason"), registry=kept
    )
    durations = Histogram(
        "covey_policy_attempt_seconds", "How long attempts took.", ("target", "verdict"), registry=kept
    )

    def hook(event: PolicyEvent) -> None:
        events.labels(event.target, event.kind, _reason(event, "reason").get("reason", "")).inc()
        if event.took_s is not None:
            durations.labels(event.target, event.verdict or "ok").observe(event.took_s)

    return hook


def _type_of(error: BaseException) -> str:
    """Return the status where the error is an answer of HTTP, as the semantic conventions want it, else its class."""
    status = getattr(error, "status_code", None)
    return str(status) if isinstance(status, int) else type(error).__qualname__


def _reason(event: PolicyEvent, name: str) -> dict[str, str]:
    """Return the reason where it is one of a few; that of an attempt is a sentence, and no label."""
    return {name: event.reason} if event.reason is not None and event.kind != "attempt" else {}
