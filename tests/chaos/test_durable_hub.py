"""A hub that is killed keeps every event it acknowledged, under the id it gave."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx2
import pytest
from tests.browser.hub_process import hub_process


@pytest.mark.requirement("durable.hub-killed")
def test_what_a_killed_hub_acknowledged_is_there_when_it_comes_back(tmp_path: Path) -> None:
    acknowledged: dict[int, str] = {}
    port = 0
    for round_ in range(3):
        with hub_process(tmp_path, port=port) as hub:
            port = hub.port
            with httpx2.Client(
                base_url=hub.address, headers={"authorization": f"Bearer {hub.token}"}, trust_env=False
            ) as http:
                if round_ == 0:
                    assert http.put("/v1/streams/ledger", json={"durable": True}).status_code == 201
                else:
                    events = http.get("/v1/streams/ledger?from=start").json()["events"]
                    assert {event["data"]: event["id"] for event in events} == acknowledged
                for n in range(len(acknowledged), len(acknowledged) + 20):
                    answer = http.post("/v1/streams/ledger", json={"data": n}, headers={"idempotency-key": f"k{n}"})
                    acknowledged[n] = answer.json()["id"]
            hub.process.send_signal(signal.SIGKILL)
