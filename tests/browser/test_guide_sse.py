"""The page of the guide to Server-Sent Events in Chromium, before the FastAPI app of the guide."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, expect
from tests.asgi_servers import server_process
from tests.guide import write_snippets

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("browser"), pytest.mark.timeout(120)]


@pytest.mark.requirement("guide.sse.page")
async def test_the_page_shows_what_was_and_what_comes_once_and_in_order(
    context: BrowserContext, tmp_path: Path
) -> None:
    write_snippets("sse.md", tmp_path)
    async with server_process("uvicorn", "news:app", is_bounded=False, folder=tmp_path) as server:
        for text in ("first", "second"):
            await server.http.post("/news", json={"text": text})
        page = await context.new_page()
        await page.goto(server.url)
        items = page.locator("#news li")
        await expect(items).to_have_text(["first", "second"])
        await server.http.post("/news", json={"text": "<b>third</b>"})
        await expect(items).to_have_text(["first", "second", "<b>third</b>"])
        await page.close()
