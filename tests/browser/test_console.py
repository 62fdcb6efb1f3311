"""The console page in Chromium, before a real hub in its own process.

Cells that have to last wait for a FIFO: they run until the test writes to it, and no clock is involved.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Locator, Page, Request, Route, expect
from tests.browser.hub_process import HubProcess, hub_process

expect.set_options(timeout=8_000)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("browser"), pytest.mark.timeout(120)]

LINES_MAX = 5000


class Console:
    """What a person does on the page, and where they look."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.code = page.get_by_role("textbox", name="Python code to run")
        self.transcript = page.get_by_role("log")
        self.connection = page.locator("#connection")
        self.lines = page.locator("#transcript .line")
        self.notes = page.locator("#transcript .note")

    async def new_session(self) -> str:
        await self.page.get_by_role("button", name="New session").click()
        await expect(self.code).to_be_visible()
        await expect(self.connection).to_have_text("live")
        return self.page.url.partition("#session=")[2]

    async def type(self, code: str) -> None:
        await self.code.fill(code)
        await self.code.press("Control+Enter")

    async def run(self, code: str, *, status: str = "ok") -> Locator:
        """Run a cell until it is done and return it."""
        await self.type(code)
        cell = self.cell(code)
        await expect(cell).to_have_attribute("data-status", status)
        return cell

    def cell(self, code: str) -> Locator:
        first_line = re.compile(f"^>>> {re.escape(code.splitlines()[0])}$")
        return self.transcript.get_by_role("article").filter(has=self.page.locator(".code-line", has_text=first_line))


def output(cell: Locator) -> Locator:
    return cell.locator(".line")


async def open_console(context: BrowserContext, hub: HubProcess) -> Console:
    page = await context.new_page()
    await page.goto(hub.url)
    console = Console(page)
    await expect(page.get_by_role("button", name="New session")).to_be_visible()
    return console


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def release(fifo: Path) -> None:
    """Let the cell that reads the FIFO go on; waits until it reads."""
    async with asyncio.timeout(15):
        await asyncio.to_thread(fifo.write_text, "go\n")


def events(*blocks: tuple[str, Mapping[str, Any]]) -> str:
    """Return an event stream: control events by their name, others as whole events."""
    text = ""
    for number, (kind, data) in enumerate(blocks, start=1):
        if kind.startswith("covey."):
            text += f"event: {kind}\nid: e.{number}\ndata: {json.dumps(data)}\n\n"
        else:
            event = {"id": f"e.{number}", "time": 1.0 + number, "kind": kind, "data": data, "by": None, "key": None}
            text += f"id: e.{number}\ndata: {json.dumps(event)}\n\n"
    return text


async def show(console: Console, hub: HubProcess, *blocks: tuple[str, Mapping[str, Any]]) -> None:
    """Show a transcript that no session of ours would write, and that ends."""
    body = events(("covey.open", {"stream": "told.out", "head": "e.0", "oldest": "e.0"}), *blocks, ("covey.end", {}))

    async def answer(route: Route) -> None:
        await route.fulfill(body=body, content_type="text/event-stream")

    await console.page.route("**/v1/streams/told.out*", answer)
    await console.page.goto(f"{hub.address}/#session=told")
    await expect(console.notes.last).to_have_text("This session has ended.")


# ---- signing in


@pytest.mark.requirement("console.token-leaves-the-address")
async def test_the_token_leaves_the_address_and_is_in_no_request_url(context: BrowserContext, hub: HubProcess) -> None:
    page = await context.new_page()
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))  # noqa: PLW0108 -- playwright takes no builtins
    await page.goto(f"{hub.url}&session=nobody")
    await expect(page.get_by_role("button", name="New session")).to_be_visible()

    assert page.url == f"{hub.address}/#session=nobody"
    urls = [request.url.partition("#")[0] for request in requests]
    assert f"{hub.address}/v1/login" in urls
    assert [url for url in urls if hub.token in url] == []
    assert [request.url for request in requests if hub.token in str(await request.all_headers())] == []
    reach = "[document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.body.innerHTML]"
    assert hub.token not in "".join(await page.evaluate(reach))
    [cookie] = await context.cookies()
    assert (cookie.get("name"), cookie.get("httpOnly"), cookie.get("sameSite")) == (f"covey_{hub.port}", True, "Strict")
    assert cookie.get("value") != hub.token

    await page.go_back()
    assert page.url == "about:blank"  # no entry with the token lies between


@pytest.mark.requirement("console.asks-for-the-token")
async def test_without_a_token_the_page_asks_for_it_and_takes_the_whole_url(
    context: BrowserContext, hub: HubProcess
) -> None:
    page = await context.new_page()
    await page.goto(hub.address)
    await expect(page.get_by_role("alert")).to_have_text("Sign in with the hub's token.")
    await expect(page.get_by_label("Token")).to_be_focused()
    await expect(page.get_by_label("Token")).to_have_attribute("type", "password")
    await page.get_by_label("Token").fill(hub.url)
    await page.get_by_label("Token").press("Enter")
    await expect(page.get_by_role("button", name="New session")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("button", name="New session")).to_be_visible()


@pytest.mark.requirement("console.wrong-token-is-said")
async def test_a_wrong_token_is_said_and_can_be_corrected(context: BrowserContext, hub: HubProcess) -> None:
    page = await context.new_page()
    await page.goto(f"{hub.address}/#token=wrong")
    await expect(page.get_by_role("alert")).to_have_text("The hub does not accept this token.")
    assert page.url == f"{hub.address}/"
    await page.get_by_label("Token").fill(hub.token)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("button", name="New session")).to_be_visible()


@pytest.mark.requirement("console.signed-out-is-said")
async def test_a_sign_in_that_ended_is_said_and_the_session_is_there_after_the_next(
    context: BrowserContext, hub: HubProcess
) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    await console.run("'kept'")
    await context.clear_cookies()
    await console.page.get_by_role("button", name="New session").click()
    await expect(console.page.locator("#problem")).to_contain_text("no token came with the request", ignore_case=True)
    await console.page.reload()
    await expect(console.page.get_by_role("alert")).to_have_text("Sign in with the hub's token.")
    await console.page.get_by_label("Token").fill(hub.token)
    await console.page.get_by_label("Token").press("Enter")
    await expect(output(console.cell("'kept'"))).to_have_text(["'kept'"])


# ---- running cells


@pytest.mark.requirement("console.runs-a-cell")
async def test_a_cell_shows_its_code_author_output_and_result(context: BrowserContext, hub: HubProcess) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    cell = await console.run("import sys\nprint('to', 'out')\nprint('to err', file=sys.stderr)\n6 * 7")
    await expect(cell.locator(".code-line")).to_have_text(
        [">>> import sys", "... print('to', 'out')", "... print('to err', file=sys.stderr)", "... 6 * 7"]
    )
    await expect(cell.locator(".by")).to_have_text("owner")
    await expect(output(cell)).to_have_text(["to out", "to err", "42"])
    await expect(cell.locator(".err")).to_have_text("to err")
    await expect(cell.locator(".result")).to_have_text("42")
    await expect(console.page.locator("#outbox")).to_be_empty()


@pytest.mark.requirement("console.output-is-live")
async def test_output_arrives_while_the_cell_runs(context: BrowserContext, hub: HubProcess, fifo: Path) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    code = f"for i in range(3):\n    print('line', i, flush=True)\n    assert open({str(fifo)!r}).read()"
    await console.type(code)
    cell = console.cell(code)
    for seen in range(1, 4):
        await expect(output(cell)).to_have_text([f"line {i}" for i in range(seen)])
        await expect(cell).to_have_attribute("data-status", "running")
        await release(fifo)
    await expect(cell).to_have_attribute("data-status", "ok")


@pytest.mark.requirement("console.reload-shows-everything-once")
async def test_a_reload_in_the_middle_shows_everything_once_in_order(
    context: BrowserContext, hub: HubProcess, fifo: Path
) -> None:
    console = await open_console(context, hub)
    name = await console.new_session()
    await console.run("'before'")
    code = f"for i in range(200):\n    print('line', i)\n    if i == 99: assert open({str(fifo)!r}).read()"
    await console.type(code)
    await expect(output(console.cell(code))).to_have_count(100)

    await console.page.reload()
    assert console.page.url.endswith(f"#session={name}")
    await expect(output(console.cell(code))).to_have_count(100)
    await release(fifo)
    await expect(console.cell(code)).to_have_attribute("data-status", "ok")
    await console.run("'after'")
    assert await console.lines.all_text_contents() == ["'before'", *(f"line {i}" for i in range(200)), "'after'"]


@pytest.mark.requirement("console.output-is-text")
async def test_html_in_code_output_result_traceback_and_prompt_is_text(
    context: BrowserContext, hub: HubProcess
) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    evil = "<img src=x onerror='window.owned=1'><script>window.owned=1</script>"
    await console.run(f'evil = """{evil}"""')
    await expect(output(await console.run("print(evil)"))).to_have_text([evil])
    await expect(output(await console.run("type('T', (), {'__repr__': lambda self: evil})()"))).to_have_text([evil])
    failed = await console.run("raise ValueError(evil)", status="error")
    await expect(output(failed).last).to_have_text(f"ValueError: {evil}")
    await console.type("input(evil)")
    await expect(console.page.locator(".input-prompt")).to_have_text(evil)
    await expect(console.transcript.locator("img, script")).to_have_count(0)
    assert await console.page.evaluate("window.owned") is None


@pytest.mark.requirement("console.output-is-text")
async def test_the_page_may_not_run_what_is_not_its_own(context: BrowserContext, hub: HubProcess) -> None:
    page = await context.new_page()
    answer = await page.goto(hub.address)
    assert answer is not None
    policy = (await answer.all_headers())["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.requirement("console.shows-tracebacks")
async def test_an_error_shows_its_traceback_and_its_status(context: BrowserContext, hub: HubProcess) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    cell = await console.run("def f():\n    return 1 / 0\nf()", status="error")
    await expect(output(cell).first).to_have_text("Traceback (most recent call last):")
    await expect(output(cell).last).to_have_text("ZeroDivisionError: division by zero")
    await expect(cell.locator(".status")).to_contain_text("error")
    await expect(output(await console.run("1 +", status="error")).last).to_contain_text("SyntaxError")


@pytest.mark.requirement("console.interrupts")
async def test_the_interrupt_button_stops_the_cell_and_keeps_the_state(
    context: BrowserContext, hub: HubProcess, fifo: Path
) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    await console.run("kept = 'kept'")
    button = console.page.get_by_role("button", name="Interrupt")
    await expect(button).to_be_disabled()
    code = f"print('waits', flush=True); open({str(fifo)!r}).read()"
    await console.type(code)
    await expect(output(console.cell(code))).to_have_text(["waits"])
    await button.click()
    await expect(console.cell(code)).to_have_attribute("data-status", "interrupted")
    await expect(output(console.cell(code)).last).to_have_text("KeyboardInterrupt")
    await expect(button).to_be_disabled()
    await expect(output(await console.run("kept"))).to_have_text(["'kept'"])


@pytest.mark.requirement("console.answers-input")
async def test_input_can_be_answered_and_is_gone_everywhere_once_it_was(
    context: BrowserContext, hub: HubProcess
) -> None:
    first = await open_console(context, hub)
    await first.new_session()
    second = await open_console(context, hub)
    await second.page.goto(first.page.url)
    await first.type("city = input('Which city? '); city")
    await expect(second.page.get_by_role("textbox", name="Which city?")).to_be_visible()
    field = first.page.get_by_role("textbox", name="Which city?")
    await expect(field).to_be_focused()
    await expect(field).to_have_attribute("type", "text")
    await field.fill("Oslo")
    await field.press("Enter")
    for console in (first, second):
        cell = console.cell("city = input('Which city? '); city")
        await expect(cell).to_have_attribute("data-status", "ok")
        await expect(output(cell)).to_have_text(["Which city? (answered by owner)", "'Oslo'"])
        await expect(console.page.locator("form.input")).to_have_count(0)
    await expect(first.code).to_be_focused()


@pytest.mark.requirement("console.answers-input")
async def test_a_password_is_hidden_and_an_input_can_be_ended(context: BrowserContext, hub: HubProcess) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    await console.type("import getpass; len(getpass.getpass('Secret: '))")
    field = console.page.get_by_label("Secret:")
    await expect(field).to_have_attribute("type", "password")
    await field.fill("sesame")
    await console.page.get_by_role("button", name="Send").click()
    await expect(console.transcript.locator(".result")).to_have_text("6")
    await expect(console.transcript).not_to_contain_text("sesame")

    await console.type("input()")
    await console.page.get_by_role("button", name="End of file").click()
    await expect(console.cell("input()")).to_have_attribute("data-status", "error")
    await expect(output(console.cell("input()")).last).to_contain_text("EOFError")


@pytest.mark.requirement("console.pages-share-a-session")
async def test_two_pages_see_each_others_sessions_and_cells(context: BrowserContext, hub: HubProcess) -> None:
    first = await open_console(context, hub)
    second = await open_console(context, hub)
    name = await first.new_session()
    # Nobody reloads the second page: the roster is live.
    await second.page.get_by_role("link", name=re.compile(rf"^{name}\b")).click()
    await first.run("x = 'from the first'")
    await expect(second.cell("x = 'from the first'")).to_have_attribute("data-status", "ok")
    await second.run("x.upper()")
    await expect(output(first.cell("x.upper()"))).to_have_text(["'FROM THE FIRST'"])


@pytest.mark.requirement("console.says-what-was-lost")
async def test_a_process_that_dies_is_told_and_the_next_cell_starts_afresh(
    context: BrowserContext, hub: HubProcess
) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    await console.run("x = 1")
    code = "import os; print('last words', flush=True); os._exit(3)"
    await expect(output(await console.run(code, status="lost"))).to_have_text(["last words"])
    await expect(console.notes.last).to_contain_text("ended with exit code 3. Its state is lost")
    failed = await console.run("x", status="error")
    await expect(output(failed).last).to_contain_text("NameError")
    await expect(console.notes.last).to_contain_text("A fresh process; nothing of the old one's state is left")


# ---- the network


@pytest.mark.requirement("console.sends-a-cell-once")
async def test_a_cell_whose_answer_is_lost_is_sent_again_and_runs_once(
    context: BrowserContext, hub: HubProcess
) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    await console.run("runs = []")
    sent: list[tuple[str, str | None]] = []
    arrived: list[int] = []

    async def lose(route: Route) -> None:
        sent.append((route.request.headers["idempotency-key"], route.request.post_data))
        if len(sent) == 2:
            answer = await route.fetch()
            arrived.append(answer.status)
        await (route.continue_() if len(sent) > 2 else route.abort())

    await console.page.route("**/v1/call/*/execute", lose)
    await console.run("runs.append(1); len(runs)")
    await expect(console.transcript.locator(".result")).to_have_text(["1"])
    await expect(console.page.locator("#outbox")).to_be_empty()
    await expect(output(await console.run("len(runs)"))).to_have_text(["1"])
    assert arrived == [200]
    assert sent[0] == sent[1]
    assert json.loads(sent[0][1] or "")["cell"] == sent[0][0]


@pytest.mark.requirement("console.sends-a-cell-once")
async def test_a_cell_that_is_refused_says_why_and_gives_the_code_back(
    context: BrowserContext, hub: HubProcess
) -> None:
    console = await open_console(context, hub)
    await console.new_session()

    async def refuse(route: Route) -> None:
        problem = {"title": "No", "status": 422, "detail": "it cannot be", "hint": "write another", "transient": False}
        await route.fulfill(status=422, json=problem)

    await console.page.route("**/v1/call/*/execute", refuse)
    await console.type("refused")
    await expect(console.page.locator(".refused")).to_contain_text("It cannot be. Write another.")
    await console.page.get_by_role("button", name="Edit").click()
    await expect(console.code).to_have_value("refused")
    await expect(console.page.locator("#outbox")).to_be_empty()


@pytest.mark.requirement("console.shows-the-connection")
async def test_a_hub_that_goes_away_is_shown_and_what_it_lost_is_said(context: BrowserContext, tmp_path: Path) -> None:
    with hub_process(tmp_path) as hub:
        console = await open_console(context, hub)
        await console.new_session()
        await console.run("1")
    await expect(console.connection).to_have_attribute("data-state", re.compile("reconnecting|ended"))
    await expect(console.lines).to_have_text(["1"])
    with hub_process(tmp_path, port=hub.port):
        await console.page.reload()
        await expect(console.connection).to_have_text("missing")
        await expect(console.notes.last).to_contain_text("There is no session")
        await expect(console.code).to_be_hidden()
        await console.new_session()
        await expect(output(await console.run("2"))).to_have_text(["2"])


@pytest.mark.requirement("console.shows-the-connection")
async def test_after_a_cut_the_page_goes_on_where_it_was(context: BrowserContext, hub: HubProcess) -> None:
    console = await open_console(context, hub)
    name = await console.new_session()
    await console.run("'before'")
    other = await open_console(context, hub)
    await other.page.goto(console.page.url)

    # The page lets go of its connection when nobody looks at it, and cannot make another.
    await console.page.route(f"**/v1/streams/{name}.out*", lambda route: route.abort())
    hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    notify = "document.dispatchEvent(new Event('visibilitychange')); }"
    await console.page.clock.install()
    await console.page.evaluate(hide + notify, arg=True)
    await console.page.clock.run_for(11_000)
    await other.run("'while away'")
    await expect(console.cell("'while away'")).to_have_count(0)
    await console.page.unroute(f"**/v1/streams/{name}.out*")
    await console.page.evaluate(hide + notify, arg=False)
    await console.page.clock.run_for(1000)
    await expect(console.connection).to_have_text("live")
    await console.page.clock.run_for(1000)
    await expect(console.lines).to_have_text(["'before'", "'while away'"])


# ---- what the transcript can hold


@pytest.mark.requirement("console.bounds-the-page")
async def test_much_output_keeps_the_last_lines_and_counts_the_others(context: BrowserContext, hub: HubProcess) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    await console.run("'old'")
    cell = await console.run("for i in range(20_000): print('line', i)")
    await expect(output(cell).last).to_have_text("line 19999")
    # The code is a line too.
    await expect(output(cell)).to_have_count(LINES_MAX)
    await expect(cell.locator(".dropped")).to_have_text("15,000 earlier lines not shown")
    await expect(console.transcript.locator("> .dropped")).to_have_text("3 earlier lines not shown")
    await expect(output(cell).last).to_be_in_viewport()
    await expect(output(await console.run("x = 'y' * 100_000; print(x)"))).to_have_text(
        re.compile("^y{10000} … 90,000 more characters not shown$")
    )


@pytest.mark.requirement("console.shows-terminal-output")
async def test_progress_lines_and_colours_look_as_in_a_terminal(context: BrowserContext, hub: HubProcess) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    bar = await console.run("for i in range(0, 101, 20): print(f'\\r{i:3d} %', end='', flush=True)")
    await expect(output(bar)).to_have_text(["100 %"])
    colours = await console.run("print('\\x1b[1;31mred\\x1b[0m plain \\x1b]8;;x\\x07link\\x1b[2Agone')")
    await expect(output(colours)).to_have_text(["red plain linkgone"])
    await expect(colours.locator(".fg-1.bold")).to_have_text("red")


@pytest.mark.requirement("console.shows-terminal-output")
async def test_output_looks_the_same_however_it_is_cut(context: BrowserContext, hub: HubProcess) -> None:
    page = await context.new_page()
    await page.goto(hub.address)
    text = (
        "ab\rX\x1b[32mgreen\x1b[0m\r\n\nlong line\r\x1b[Kshort\b\bT\x1b]0;title\x1b\\!\x00\x1b[38;5;196mred\x1b[7m\tend"
    )
    looks: list[Any] = await page.evaluate(
        """async (text) => {
            const { Screen } = await import("/console/screen.js");
            const look = (parts) => {
                const lines = [];
                const screen = new Screen((line) => lines.push(line), () => {});
                for (const part of parts) screen.write("out", part);
                const runs = lines.map(({ runs }) => runs.map(({ text, style }) => [...text].map((c) => [c, style])));
                return JSON.stringify(runs.map((line) => line.flat()));
            };
            const cuts = [...text].map((_, at) => look([text.slice(0, at), text.slice(at)]));
            return [look([text]), ...new Set([...cuts, look([...text])])];
        }""",
        text,
    )
    assert len(looks) == 2
    assert looks[0] == looks[1]
    lines = ["".join(character for character, _ in line) for line in json.loads(looks[0])]
    assert lines == ["Xgreen", "", "shoT!␀red\tend"]


@pytest.mark.requirement("console.says-what-was-lost")
async def test_gaps_and_resets_are_told(context: BrowserContext, hub: HubProcess) -> None:
    console = await open_console(context, hub)
    await show(
        console,
        hub,
        ("stdout", {"cell": None, "text": "of another epoch\n"}),
        ("covey.reset", {"head": "e.9", "oldest": "e.1"}),
        ("covey.gap", {"after": "e.1", "before": "e.5", "lost": 1234}),
        ("stdout", {"cell": None, "text": "after the gap\n"}),
        ("covey.gap", {"after": "e.1", "before": "e.5", "lost": None}),
        ("limit", {"which": "memory"}),
        ("lost", {"exit": None, "signal": 11, "state": "lost"}),
    )
    await expect(console.lines).to_have_text(["after the gap"])
    await expect(console.notes).to_have_text(
        [
            "The hub began this transcript anew; what it had before is gone.",
            "1,234 events of the transcript are no longer kept by the hub and are missing here.",
            "Some events of the transcript are no longer kept by the hub and are missing here.",
            "A limit was reached: memory",
            "The session's process ended by signal 11. Its state is lost; the next cell starts a fresh one.",
            "This session has ended.",
        ]
    )


@pytest.mark.requirement("console.shows-mime")
async def test_images_are_shown_html_is_text_and_bytes_are_decoded(context: BrowserContext, hub: HubProcess) -> None:
    console = await open_console(context, hub)
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    await show(
        console,
        hub,
        ("cell", {"cell": "a", "code": "draw()", "by": "ada"}),
        ("stdout", {"cell": "a", "base64": "/2hpCg=="}),
        ("result", {"cell": "a", "mime": {"text/plain": "<Figure>", "image/png": pixel}}),
        ("done", {"cell": "a", "status": "ok"}),
        ("result", {"cell": "b", "mime": {"text/html": "<b>bold</b>"}}),
        ("result", {"cell": "b", "mime": {"image/png": 'x" onerror="window.owned=1', "text/plain": "no image"}}),
        ("odd", {"new": "kind"}),
    )
    image = console.page.get_by_role("img", name="<Figure>")
    await expect(image).to_have_js_property("naturalWidth", 1)
    await expect(console.lines).to_have_text(["\ufffdhi", "<b>bold</b>", "no image"])
    await expect(console.notes.first).to_have_text('odd {"new":"kind"}')


# ---- writing, looks, weight


@pytest.mark.requirement("console.keys-run-cells")
async def test_enter_runs_a_complete_line_and_goes_on_with_an_incomplete_one(
    context: BrowserContext, hub: HubProcess
) -> None:
    console = await open_console(context, hub)
    await console.new_session()
    await expect(console.code).to_be_focused()
    await console.page.keyboard.type("1 + 1\n")
    await expect(output(console.cell("1 + 1"))).to_have_text(["2"])
    await console.page.keyboard.type("def f(x):\nreturn x + 1\n")
    await expect(console.code).to_have_value("def f(x):\n    return x + 1\n    ")
    await console.page.keyboard.press("Enter")  # a blank line ends it, as at Python's prompt
    await expect(console.code).to_have_value("")
    await console.page.keyboard.type("f(1)")
    await console.page.keyboard.press("Shift+Enter")
    await expect(console.code).to_have_value("f(1)\n")
    await console.page.keyboard.type("f(2)")
    await console.page.keyboard.press("Control+Enter")
    await expect(output(console.cell("f(1)"))).to_have_text(["3"])
    await console.page.keyboard.press("ArrowUp")
    await expect(console.code).to_have_value("f(1)\nf(2)")


@pytest.mark.requirement("console.keys-run-cells")
async def test_a_line_is_complete_when_python_would_not_wait_for_more(context: BrowserContext, hub: HubProcess) -> None:
    page = await context.new_page()
    await page.goto(hub.address)
    complete = [
        "1",
        "print('(')",
        "x = [1]  # (",
        "'''a'''",
        "''",
        '""',
        "f(r'\\\\')",
        "x = ')'",
        ")",
        "a[1:]",
        'f"{x}"',
    ]
    incomplete = ["", "  ", "def f():", "if x:  # why", "f(", "x = {", "'''a", '"""', "x = \\", "@decorator", "1\n2"]
    look = "async (lines) => lines.map((await import('/console/python.js')).looksComplete)"
    assert dict(zip(complete, await page.evaluate(look, complete), strict=True)) == dict.fromkeys(complete, True)
    assert dict(zip(incomplete, await page.evaluate(look, incomplete), strict=True)) == dict.fromkeys(incomplete, False)


@pytest.mark.requirement("console.fits-a-phone")
async def test_at_phone_width_nothing_is_cut_off_and_all_controls_are_there(
    context: BrowserContext, hub: HubProcess
) -> None:
    console = await open_console(context, hub)
    await console.page.set_viewport_size({"width": 360, "height": 640})
    await console.new_session()
    await console.run("print('wide ' * 200)")
    assert await console.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for control in ("New session", "Interrupt", "Run"):
        await expect(console.page.get_by_role("button", name=control, exact=True)).to_be_in_viewport(ratio=1)


@pytest.mark.requirement("console.is-small")
async def test_the_page_weighs_little_and_needs_nothing_from_elsewhere() -> None:
    files = [file for file in resources.files("covey.hub").joinpath("console").iterdir() if file.is_file()]
    assert {"index.html", "console.js", "console.css"} <= {file.name for file in files}
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) <= 30_000
    addresses = {url for file in files for url in re.findall(r"https?://[\w.]+", file.read_text())}
    assert addresses <= {"http://www.w3.org"}  # the name of SVG, which nothing fetches
