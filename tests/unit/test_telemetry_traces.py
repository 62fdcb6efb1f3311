"""`interop/telemetry.py`: what policies tell arrives in traces."""

from __future__ import annotations

import contextlib

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from covey.interop.telemetry import trace_with_opentelemetry
from covey.resilience.backoff import Backoff
from covey.resilience.policy import Policy
from covey.resilience.target import Target


async def spans_of(*failures: Exception) -> tuple[list[ReadableSpan], ReadableSpan]:
    """Return the spans of the attempts of a call that fails so, and that of its caller."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    hook = trace_with_opentelemetry(tracer)
    target = Target("api", Policy(on_event=hook, backoff=Backoff(first_s=1e-6, cap_s=1e-6)))
    left = list(failures)

    async def fetch() -> str:
        if left:
            raise left.pop(0)
        return "done"

    with tracer.start_as_current_span("caller"), contextlib.suppress(ConnectionResetError):
        await target.call(fetch)
    *attempts, caller = exporter.get_finished_spans()
    provider.shutdown()
    return attempts, caller


@pytest.mark.requirement("interop.telemetry.traces")
async def test_each_attempt_is_a_span_of_its_caller_with_the_time_it_took() -> None:
    (failed, good), caller = await spans_of(ConnectionRefusedError("nobody listens"))
    assert failed.attributes is not None
    assert good.attributes is not None
    assert (failed.name, failed.kind, failed.status.status_code) == ("attempt api", SpanKind.CLIENT, StatusCode.ERROR)
    assert failed.attributes["error.type"] == "ConnectionRefusedError"
    assert (failed.attributes["covey.attempt"], good.attributes["covey.attempt"]) == (1, 2)
    assert good.status.status_code is StatusCode.UNSET
    for attempt in (failed, good):
        took_s = attempt.attributes["covey.took_s"] if attempt.attributes is not None else None
        assert isinstance(took_s, float)
        assert attempt.parent == caller.context
        assert attempt.start_time is not None
        assert attempt.end_time is not None
        assert attempt.end_time - attempt.start_time == int(took_s * 1e9)


@pytest.mark.requirement("interop.telemetry.traces")
async def test_what_a_policy_decides_is_an_event_of_the_callers_span() -> None:
    _, caller = await spans_of(ConnectionRefusedError("nobody listens"), ConnectionResetError("gone"))
    told = [(event.name, (event.attributes or {}).get("covey.reason")) for event in caller.events]
    assert told == [("covey.retry", None), ("covey.suppressed", "may_have_run")]


@pytest.mark.requirement("interop.telemetry.traces")
async def test_the_error_type_of_an_answer_is_its_status() -> None:
    class RefusalError(ConnectionResetError):
        status_code = 404

    (attempt,), _ = await spans_of(RefusalError("not there"))
    assert (attempt.attributes or {})["error.type"] == "404"
