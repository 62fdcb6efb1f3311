from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.serving import TOKEN, Served, serving

from covey.hub.auth import StateFolderError, check_host, keep_token, outside_of
from covey.hub.calls import call_id
from covey.hub.http import Request


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


async def never() -> dict[str, object]:
    raise AssertionError


# ---- who may ask


@pytest.mark.requirement("hub.auth.token")
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}, {"authorization": "Bearer"},
     {"authorization": f"Bearer {TOKEN}x"}, {"authorization": "Bearer \xff"}, {"cookie": "covey_1=x; ;;=="}],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/streams", "/v1/teammates", "/v1/nothing", "/v1/streams/team"])
async def test_nothing_under_v1_answers_without_the_token(served: Served, path: str, headers: dict[str, str]) -> None:
    async with served.anonymous() as client:
        answer = await client.get(path, headers={k.encode(): v.encode("latin-1") for k, v in headers.items()})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Bearer <token>" in answer.json()["hint"]
    assert TOKEN not in answer.text


@pytest.mark.requirement("hub.auth.token")
async def test_every_route_of_v1_but_login_needs_the_token(served: Served) -> None:
    async with served.anonymous() as client:
        for route in served.hub._routes:
            path = route.pattern.replace("{}", "ada")
            if path.startswith("/v1") and path != "/v1/login":
                assert (await client.request(route.method, path)).status_code == 401, route


@pytest.mark.requirement("hub.auth.probes")
async def test_probes_answer_anyone_under_any_name(served: Served) -> None:
    async with served.anonymous() as client:
        for path in ("/livez", "/readyz"):
            assert (await client.get(path, headers={"host": "10.0.0.3"})).status_code == 200


@pytest.mark.requirement("hub.auth.host")
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1:7077.evil.example"])
async def test_another_host_is_refused_even_with_the_token(served: Served, host: str) -> None:
    answer = await served.http.get("/v1/teammates", headers={"host": host})
    assert answer.status_code == 421
    assert "--public-url" in answer.json()["hint"]


@pytest.mark.requirement("hub.auth.host")
def test_the_hosts_of_a_hub_are_its_address_and_its_public_url() -> None:
    local = outside_of("127.0.0.1", 7077)
    assert local.hosts == frozenset({"127.0.0.1:7077", "localhost:7077", "[::1]:7077"})
    public = outside_of("10.0.0.1", 80, public_url="https://covey.example/x")
    assert public.hosts == frozenset({"10.0.0.1:80", "10.0.0.1", "covey.example"})
    assert public.is_tls


@pytest.mark.requirement("hub.auth.host")
@pytest.mark.parametrize(
    ("host", "is_ours"),
    [("192.0.2.7:7077", True), ("[2001:db8::1]:7077", True), ("localhost:7077", True), ("192.0.2.7:80", False),
     ("192.0.2.7", False), ("evil.example:7077", False), ("192.0.2.7.evil.example:7077", False)],
)  # fmt: skip
def test_a_hub_on_every_address_answers_to_addresses_but_to_no_name(host: str, *, is_ours: bool) -> None:
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host.encode())]}, never)
    assert (check_host(request, outside_of("0.0.0.0", 7077)) is None) == is_ours  # noqa: S104


@pytest.mark.requirement("hub.auth.login")
async def test_the_page_gets_a_cookie_for_the_token_and_works_with_it(served: Served) -> None:
    async with served.anonymous() as client:
        wrong = await client.post("/v1/login", json={"token": "wrong"})
        assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)
        login = await client.post("/v1/login", json={"token": TOKEN})
        assert login.status_code == 204
        cookie = login.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert cookie.startswith(f"covey_{served.url.rpartition(':')[2]}=")
        assert (await client.get("/v1/teammates")).status_code == 200


@pytest.mark.requirement("hub.auth.origin")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"origin": "own"}, 200),
    ],
)
async def test_with_a_cookie_only_the_hubs_own_page_may_change_things(
    served: Served, headers: dict[str, str], status: int
) -> None:
    served.streams.stream("news", object)
    async with served.anonymous() as client:
        await client.post("/v1/login", json={"token": TOKEN})
        sent = {name: served.url if value == "own" else value for name, value in headers.items()}
        answer = await client.post("/v1/streams/news", json={"data": 1}, headers=sent)
        assert answer.status_code == status
        assert len(served.streams.get("news").ring) == (1 if status == 200 else 0)
        assert (await client.get("/v1/streams/news")).status_code == 200


@pytest.mark.requirement("hub.auth.cors")
async def test_only_configured_origins_may_read_from_a_browser() -> None:
    async with serving(origins=frozenset({"https://app.example"})) as served:
        known = await served.http.get("/v1/streams", headers={"origin": "https://app.example"})
        assert known.headers["access-control-allow-origin"] == "https://app.example"
        assert known.headers["vary"] == "origin"
        other = await served.http.get("/v1/streams", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        asked = {"origin": "https://app.example", "access-control-request-headers": "authorization"}
        async with served.anonymous() as client:
            preflight = await client.options("/v1/streams/news", headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-headers"] == "authorization"
        assert "PUT" in preflight.headers["access-control-allow-methods"]
    async with serving() as served:
        plain = await served.http.get("/v1/streams", headers={"origin": "https://app.example"})
        assert "access-control-allow-origin" not in plain.headers


@pytest.mark.requirement("hub.auth.mounted")
async def test_a_hub_without_a_token_leaves_the_gate_to_its_app() -> None:
    async with serving(token=None) as served, served.anonymous() as client:
        assert (await client.get("/v1/teammates")).status_code == 200


@pytest.mark.requirement("hub.auth.token-file")
def test_the_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "7077"
    token = keep_token(folder)
    assert keep_token(folder) == token
    assert len(token) >= 43
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "token").chmod(0o644)
    assert keep_token(folder) == token
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600


@pytest.mark.requirement("hub.auth.token-file")
def test_an_empty_token_file_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(StateFolderError, match="no usable token"):
        keep_token(tmp_path)


@pytest.mark.requirement("hub.auth.token-file")
def test_a_token_that_could_not_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, *_: object, **__: object) -> None:
        os.close(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fdopen", full)
        with pytest.raises(StateFolderError, match="No space left"):
            keep_token(tmp_path)
    assert len(keep_token(tmp_path)) >= 43


@pytest.mark.requirement("hub.auth.token-file")
def test_a_state_folder_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateFolderError, match="cannot be used") as caught:
        keep_token(tmp_path / "file" / "7077")
    assert "COVEY_STATE" in (caught.value.hint or "")


# ---- calls


@pytest.mark.requirement("hub.call")
@pytest.mark.parametrize(
    "body", [b'{"name":"bob","times":2}', b'["bob",2]', b'{"times":2,"name":"bob"}', b' ["bob", 2]\n']
)
async def test_arguments_come_by_name_or_in_order(served: Served, body: bytes) -> None:
    answer = await served.http.post("/v1/call/ada/greet", content=body)
    assert answer.json() == {"result": "hello bob hello bob"}
    assert len(answer.headers["covey-call"]) == 32


@pytest.mark.requirement("hub.call.id")
async def test_the_call_id_is_the_same_for_a_repeat_and_another_for_another_key(served: Served) -> None:
    async def call(key: str) -> str:
        answer = await served.http.post("/v1/call/ada/greet", json=["bob"], headers={"idempotency-key": key})
        return str(answer.headers["covey-call"])

    assert await call("a") == await call("a") != await call("b")


@pytest.mark.requirement("hub.bad-input.calls")
@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "says"),
    [
        ("ada/greet", b"{}", {}, 422, "needs the argument 'name'"),
        ("ada/greet", b'{"name":3}', {}, 422, "'name' does not fit"),
        ("ada/greet", b'{"nome":"x"}', {}, 422, "no argument 'nome'"),
        ("ada/greet", b"[1,2,3]", {}, 422, "takes 2 arguments, 3 were given"),
        ("ada/greet", b'"bob"', {}, 400, "neither a JSON object"),
        ("ada/greet", b"{", {}, 400, "neither a JSON object"),
        ("ada/greet", b"\xff\xfe", {}, 400, "neither a JSON object"),
        ("ada/gret", b'["x"]', {}, 404, "no method 'gret'"),
        ("ada/not_a_call", b"", {}, 404, "no method"),
        ("ada/_private", b"", {}, 404, "no method"),
        ("ada/__init__", b"", {}, 404, "no method"),
        ("adda/greet", b'["x"]', {}, 404, "no teammate 'adda'"),
        ("ada/greet", b'["x"]', {"covey-timeout-ms": "soon"}, 400, "Covey-Timeout-Ms"),
        ("ada/greet", b'["x"]', {"covey-timeout-ms": "-1"}, 400, "Covey-Timeout-Ms"),
        ("ada/greet", b'["x"]', {"covey-timeout-ms": "0"}, 504, "no time remained"),
        ("ada/greet", b'["x"]', {"idempotency-key": "k" * 129}, 400, "idempotency key"),
        ("ada/greet", b'["x"]', {"accept": "text/event-stream"}, 406, "gives one result"),
        ("ada/greet", b'["' + b"x" * (9 << 20) + b'"]', {}, 413, "over"),
    ],
)
async def test_a_bad_call_says_what_is_wrong(
    served: Served, path: str, body: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    answer = await served.http.post(f"/v1/call/{path}", content=body, headers=headers)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text


@pytest.mark.requirement("hub.bad-input.calls")
async def test_near_names_are_offered(served: Served) -> None:
    assert (await served.http.post("/v1/call/adda/greet")).json()["hint"] == "did you mean 'ada'?"
    assert (await served.http.post("/v1/call/ada/gret")).json()["hint"] == "did you mean 'greet'?"


@pytest.mark.requirement("hub.call.deadline")
async def test_a_call_ends_at_its_deadline(served: Served) -> None:
    answer = await served.http.post("/v1/call/ada/hold", headers={"covey-timeout-ms": "30"})
    assert answer.status_code == 504
    assert answer.json()["transient"] is True


@pytest.mark.requirement("hub.call.limit")
async def test_too_many_calls_at_once_are_refused_with_a_time_to_come_back(served: Served) -> None:
    holding = [asyncio.create_task(served.http.post("/v1/call/ada/hold", timeout=30)) for _ in range(2)]
    async with asyncio.timeout(10):
        await served.greeter.entered.wait()
    routes = next(route.handler.__self__ for route in served.hub._routes if route.pattern == "/v1/call/{}/{}")  # type: ignore[attr-defined]
    routes._calls_max = routes.running
    refused = await served.http.post("/v1/call/ada/greet", json=["x"])
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["transient"] is True
    assert "covey-call" in refused.headers
    served.greeter.release.set()
    assert [(await answer).json() for answer in holding] == [{"result": "released"}] * 2


@pytest.mark.requirement("hub.call.failure")
async def test_what_a_method_raises_stays_in_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    answer = await served.http.post("/v1/call/ada/fail")
    assert answer.status_code == 500
    assert "a secret detail" not in answer.text
    assert "a secret detail" in caplog.text


@pytest.mark.requirement("hub.call.failure")
async def test_a_time_out_of_the_methods_own_is_not_the_calls_deadline(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await served.http.post("/v1/call/ada/time_out")
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:covey:problem:failed")
    assert "a secret detail" in caplog.text


@pytest.mark.requirement("hub.head-and-options")
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/login", "OPTIONS, POST"),
        ("/v1/teammates", "GET, HEAD, OPTIONS, POST"),
        ("/v1/nothing", "OPTIONS"),
    ],
)
async def test_allow_names_the_methods_that_may_be_used(served: Served, path: str, allowed: str) -> None:
    assert (await served.http.options(path)).headers["allow"] == allowed
    refused = await served.http.patch(path)
    assert refused.headers.get("allow", "OPTIONS") == allowed


@pytest.mark.requirement("hub.call.once")
async def test_a_repeated_call_is_answered_and_not_run(served: Served) -> None:
    key = {"idempotency-key": "k1"}
    first = await served.http.post("/v1/call/ada/count", json={"step": 2}, headers=key)
    again = await served.http.post("/v1/call/ada/count", json={"step": 2}, headers=key)
    assert first.json() == again.json() == {"result": 2}
    assert first.headers["covey-call"] == again.headers["covey-call"]
    assert (await served.http.post("/v1/call/ada/count", json={"step": 3}, headers=key)).status_code == 422
    assert (await served.http.post("/v1/call/ada/count", json={"step": 2})).json() == {"result": 4}


@pytest.mark.requirement("hub.call.once")
async def test_a_call_whose_client_left_goes_on_and_its_repeat_joins_it(served: Served) -> None:
    key = {"idempotency-key": "k1"}
    left = asyncio.create_task(served.http.post("/v1/call/ada/hold", headers=key))
    async with asyncio.timeout(10):
        await served.greeter.entered.wait()
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    joined = asyncio.create_task(served.http.post("/v1/call/ada/hold", headers=key))
    impatient = await served.http.post("/v1/call/ada/hold", headers={**key, "covey-timeout-ms": "1"})
    assert impatient.status_code == 504
    served.greeter.release.set()
    assert (await joined).json() == {"result": "released"}


@pytest.mark.requirement("hub.call.once")
async def test_what_a_method_refuses_may_be_sent_again_under_its_key(served: Served) -> None:
    key = {"idempotency-key": "k1"}
    refused = await served.http.post("/v1/call/ada/refuse_once", headers=key)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert (await served.http.post("/v1/call/ada/refuse_once", headers=key)).json() == {"result": "taken"}


@pytest.mark.requirement("hub.call.once")
async def test_a_call_of_a_run_that_died_is_reported_unless_it_is_idempotent(served: Served) -> None:
    engine = served.hub.journal._engine
    digest = hashlib.sha256(b"").digest()
    for method in ("count", "peek"):
        await engine.journal_start(call_id("owner", "ada", method, "k"), digest, "an earlier run", keep_s=60)
    lost = await served.http.post("/v1/call/ada/count", headers={"idempotency-key": "k"})
    assert (lost.status_code, lost.json()["maybe_executed"]) == (502, True)
    assert (await served.http.post("/v1/call/ada/peek", headers={"idempotency-key": "k"})).json() == {"result": 0}


@pytest.mark.requirement("hub.call.cancel")
async def test_a_call_is_cancelled_by_its_id_and_the_answer_is_true(served: Served) -> None:
    key = {"idempotency-key": "k1"}
    holding = asyncio.create_task(served.http.post("/v1/call/ada/hold", headers=key))
    async with asyncio.timeout(10):
        await served.greeter.entered.wait()
    identifier = call_id("owner", "ada", "hold", "k1")
    assert (await served.http.delete(f"/v1/calls/{identifier}")).json() == {"call": identifier, "state": "cancelled"}
    answer = await holding
    assert (answer.status_code, answer.json()["maybe_executed"]) == (502, True)
    assert (await served.http.delete(f"/v1/calls/{identifier}")).json()["state"] == "finished"
    unknown = await served.http.delete("/v1/calls/0123")
    assert (unknown.status_code, unknown.json()["maybe_executed"]) == (404, True)


@pytest.mark.requirement("hub.call.failure")
async def test_a_result_that_is_no_json_is_the_methods_failure(served: Served) -> None:
    answer = await served.http.post("/v1/call/ada/give_what_is_no_json")
    assert (answer.status_code, "cannot be written as JSON" in answer.json()["detail"]) == (500, True)


# ---- the roster


@pytest.mark.requirement("hub.roster")
async def test_the_roster_shows_who_comes_and_goes(served: Served) -> None:
    spawned = await served.http.post("/v1/teammates", json={"kind": "sleeper"})
    assert spawned.status_code == 201
    body = spawned.json()
    assert (body["name"], body["stream"]) == ("sleeper-1", "sleeper-1.out")
    after = (await served.http.get("/v1/streams/sleeper-1.out", params={"after": body["cursor"]})).json()
    assert [event["kind"] for event in after["events"]] == ["started"]
    rows = (await served.http.get("/v1/teammates")).json()["teammates"]
    assert [(row["name"], row["kind"], row["state"]) for row in rows] == [
        ("ada", "Greeter", "ready"),
        ("sleeper-1", "sleeper", "asleep"),
    ]
    stopped = (await served.http.delete("/v1/teammates/sleeper-1")).json()
    assert stopped == {"name": "sleeper-1", "state": "stopped", "steps": ["asked"], "exit": 0, "signal": None}
    told = served.streams.get("team").view(tail=9).tail
    assert [(event.kind, event.data["name"]) for event in told] == [
        ("joined", "ada"),
        ("joined", "sleeper-1"),
        ("left", "sleeper-1"),
    ]


@pytest.mark.requirement("hub.roster")
async def test_a_name_can_be_used_again_and_its_stream_begins_anew(served: Served) -> None:
    for _ in range(2):
        spawned = (await served.http.post("/v1/teammates", json={"kind": "sleeper", "name": "sam"})).json()
        events = (await served.http.get("/v1/streams/sam.out", params={"after": spawned["cursor"]})).json()["events"]
        assert [event["kind"] for event in events] == ["started"]
        await served.http.delete("/v1/teammates/sam")


@pytest.mark.requirement("hub.roster.describe")
async def test_a_teammate_describes_its_methods(served: Served) -> None:
    described = (await served.http.get("/v1/teammates/ada")).json()
    methods = {method["name"]: method for method in described["methods"]}
    assert {"greet", "hold", "fail"} <= set(methods)
    assert not {"not_a_call", "_private"} & set(methods)
    assert methods["greet"]["summary"] == "Greet someone. The second sentence is not for the summary."
    assert methods["greet"]["arguments"]["name"] == {"required": True, "schema": {"type": "string"}}
    assert methods["greet"]["arguments"]["times"]["required"] is False


@pytest.mark.requirement("hub.bad-input.spawn")
@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"kind": "sleper"}, 400, "no kind 'sleper'"),
        ({"kind": "sleeper", "name": "ada"}, 409, "teammate 'ada' already"),
        ({"kind": "sleeper", "name": "a b"}, 400, "is not a teammate's name"),
        ({"kind": "sleeper", "name": "board"}, 400, "reserved"),
        ({"kind": "sleeper", "name": "call.x"}, 400, "covey's own"),
        ({"name": "x"}, 400, "missing required field `kind`"),
        ({"kind": "sleeper", "colour": "red"}, 400, "unknown field"),
    ],
)
async def test_a_bad_spawn_says_what_is_wrong(served: Served, body: dict[str, str], status: int, says: str) -> None:
    answer = await served.http.post("/v1/teammates", json=body)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
    assert len(served.team) == 1


@pytest.mark.requirement("hub.bad-input.spawn")
@pytest.mark.parametrize("timeout_s", ["soon", "-1", "nan", "61"])
async def test_a_nonsense_timeout_stops_nobody(served: Served, timeout_s: str) -> None:
    answer = await served.http.delete("/v1/teammates/ada", params={"timeout_s": timeout_s})
    assert (answer.status_code, len(served.team)) == (400, 1)


@pytest.mark.requirement("hub.roster.limit")
async def test_a_full_team_and_one_that_goes_away_take_nobody_in(served: Served) -> None:
    served.team.members_max = 1
    full = await served.http.post("/v1/teammates", json={"kind": "sleeper"})
    assert (full.status_code, full.headers["retry-after"]) == (503, "30")
    served.team.is_draining = True
    assert (await served.http.post("/v1/teammates", json={"kind": "sleeper"})).status_code == 503


# ---- the page


@pytest.mark.requirement("hub.page")
async def test_the_page_is_open_and_runs_nothing_from_elsewhere(served: Served) -> None:
    async with served.anonymous() as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert (await client.get("/console/console.js")).headers["content-type"].startswith("text/javascript")
        endless = f"/console/{'a' * 5000}.js"
        for path in (endless, "/console/secret.js", "/console/__init__.py", "/console/%2e%2e", "/console/..%2fapp.py"):
            assert (await client.get(path)).status_code == 404


@pytest.mark.requirement("hub.slow-request")
async def test_a_client_that_leaves_in_the_middle_of_its_body_costs_nothing(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(served.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/call/ada/greet HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
    writer.write(head.encode() + b"Content-Length: 100\r\n\r\n[")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    assert (await served.http.post("/v1/call/ada/greet", json=["x"])).status_code == 200
    assert "failed" not in caplog.text
