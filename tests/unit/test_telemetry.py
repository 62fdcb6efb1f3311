"""`interop/telemetry.py`: what policies tell arrives in logs and metrics."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from covey.interop.telemetry import count_with_opentelemetry, count_with_prometheus, log_events
from covey.resilience.backoff import Backoff
from covey.resilience.events import Hook
from covey.resilience.policy import Policy
from covey.resilience.target import Target


async def use(hook: Hook) -> None:
    """Make a call that goes well, and one that does after a failure, and one that fails for good."""
    target = Target("api", Policy(on_event=hook, backoff=Backoff(first_s=1e-6, cap_s=1e-6)))
    failures: list[Exception] = []

    async def fetch() -> str:
        if failures:
            raise failures.pop()
        return "done"

    await target.call(fetch)
    failures.append(ConnectionRefusedError("nobody listens"))
    await target.call(fetch)
    failures.append(ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError):
        await target.call(fetch)


@pytest.mark.requirement("interop.telemetry")
async def test_events_become_lines_of_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="covey.policy"):
        await use(log_events())
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in lines] == ["DEBUG", "DEBUG", "INFO", "DEBUG", "DEBUG", "WARNING"]
    assert lines[-1][1].startswith("api: suppressed attempt=1 reason=may_have_run error=ConnectionResetError")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="mine"):
        await use(log_events(logging.getLogger("mine")))
    assert [record.name for record in caplog.records] == ["mine"]


@pytest.mark.requirement("interop.telemetry")
async def test_events_become_metrics_of_opentelemetry() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    await use(count_with_opentelemetry(provider.get_meter("test")))
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {metric.name: metric.data for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    counted = {
        (str(point.attributes["covey.event"]), str(point.attributes.get("error.type", ""))): point.value  # type: ignore[union-attr]
        for point in metrics["covey.policy.events"].data_points
        if point.attributes is not None
    }
    assert counted == {
        ("attempt", ""): 2,
        ("attempt", "ConnectionRefusedError"): 1,
        ("attempt", "ConnectionResetError"): 1,
        ("retry", "ConnectionRefusedError"): 1,
        ("suppressed", "ConnectionResetError"): 1,
    }
    durations: Any = metrics["covey.policy.attempt.duration"].data_points
    assert sum(point.count for point in durations) == 4
    provider.shutdown()


@pytest.mark.requirement("interop.telemetry")
async def test_events_become_metrics_of_prometheus() -> None:
    registry = CollectorRegistry()
    await use(count_with_prometheus(registry))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"target": "api", **labels})

    assert value("covey_policy_events_total", event="attempt", reason="") == 4
    assert value("covey_policy_events_total", event="suppressed", reason="may_have_run") == 1
    assert value("covey_policy_attempt_seconds_count", verdict="ok") == 2
    assert value("covey_policy_attempt_seconds_count", verdict="transient") == 1
