"""The hub's own TLS, and the fast path through it."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from tests.terminal import Terminal

from covey.wire.event_stream import parse_event_stream

COVEY = [sys.executable, "-m", "covey"]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.mark.requirement("hub.tls")
def test_streams_flow_through_tls(certificate: tuple[Path, Path], state_folder: Path) -> None:
    cert, key = certificate
    command = [*COVEY, "serve", "--port", "0", "--tls-cert", str(cert), "--tls-key", str(key)]
    env = {"COVEY_STATE": str(state_folder), "PATH": "/usr/bin:/bin"}
    with Terminal(command, env=env) as hub:
        url, token = hub.wait_for("Ctrl-C stops").partition("serves ")[2].split()[0].split("/#token=")
        assert url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(cert))
        bearer = {"authorization": f"Bearer {token}"}
        with httpx2.Client(base_url=url, headers=bearer, verify=context, trust_env=False) as http:
            assert http.put("/v1/streams/news").status_code == 201
            for number in range(3):
                http.post("/v1/streams/news", json={"data": "x" * 100_000 + str(number)})
            headers = {"accept": "text/event-stream"}
            with http.stream("GET", "/v1/streams/news?from=start", headers=headers, timeout=20) as response:
                assert response.headers["connection"] == "close"  # what leaves ASGI says so
                events = parse_event_stream(response.iter_raw())
                assert next(events).event == "covey.open"
                assert [next(events).data[-2:-1] for _ in range(3)] == ["0", "1", "2"]
                http.delete("/v1/streams/news")
                assert next(events).event == "covey.end"
            login = http.post("/v1/login", json={"token": token})
            assert "Secure" in login.headers["set-cookie"]
        hub.type("\x03")
        assert hub.wait_closed() == 0


@pytest.mark.requirement("hub.tls")
def test_a_certificate_that_is_none_is_said_in_one_line(tmp_path: Path, state_folder: Path) -> None:
    wrong = tmp_path / "cert.pem"
    wrong.write_text("no certificate")
    env = {"COVEY_STATE": str(state_folder), "PATH": "/usr/bin:/bin"}
    for path in (wrong, tmp_path / "missing.pem"):
        command = [*COVEY, "serve", "--port", "0", "--tls-cert", str(path)]
        answer = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
        assert (answer.returncode != 0, answer.stdout, answer.stderr.count("\n")) == (True, "", 1)
        assert str(path) in answer.stderr
