"""A real browser at a real server: whatever it complains about fails the test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped]
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.browser import chromium
from tests.conftest import Running, Serve

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WAYS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
"""How every page is looked at."""

SHOTS = os.environ.get("SCREENSHOTS")
"""A directory to which pictures of all pages go, if it is named."""

_WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@dataclass
class Console:
    """The console in a browser. `page` is a wide, light window; what it complains of is gathered in `complaints`.

    What `look` opens is in a `second` window, which knows nothing of the first one.
    """

    server: Running
    browser: Browser
    page: Page
    second: Page | None = None
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str) -> Page:
        """Go to a page in the window."""
        answer = await self.page.goto(self.server.url + path)
        assert answer is not None
        assert answer.status < 400, f"{path}: {answer.status}"
        return self.page

    async def look(self, name: str, path: str | None = None, *, ready: str | None = None) -> None:
        """Look at a page in every way, for what breaks the rules of accessibility, and whether it is too wide.

        Without a path at the one that is open, in the window alone. `ready` is a selector to wait for.
        """
        if path is None:
            await self._examine(name, self.page)
            return
        if self.second is None:
            context = await self.browser.new_context(**WAYS["light"], reduced_motion="reduce")
            self.second = await context.new_page()
            self.listen(self.second)
        page = self.second
        answer = await page.goto(self.server.url + path)
        assert answer is not None
        assert answer.status < 400, f"{path}: {answer.status}"
        if ready is not None:
            await page.wait_for_selector(ready)
        for way, options in WAYS.items():
            await page.emulate_media(color_scheme=options["color_scheme"], reduced_motion="reduce")
            await page.set_viewport_size(options["viewport"])
            await self._examine(f"{name}-{way}", page)

    async def _examine(self, name: str, page: Page) -> None:
        if SHOTS:
            await page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)
        found = (await Axe().run(page)).response["violations"]
        self.complaints += [
            f"{name}: axe {one['id']}: {one['help']}: {[node['target'] for node in one['nodes']][:3]}" for one in found
        ]
        if (wider := await page.evaluate(_WIDER)) > 0:
            self.complaints.append(f"{name}: {wider} px wider than the window")

    def listen(self, page: Page) -> None:
        """Gather what the browser says of a page."""

        def hear(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.complaints.append(f"{page.url}: {message.type}: {message.text}")

        page.on("console", hear)
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("dialog", lambda dialog: self.complaints.append(f"{page.url}: a dialog: {dialog.message}"))


@pytest.fixture
async def console(serve: Serve) -> AsyncIterator[Console]:
    """A server of `postroad dev`, where nobody has to sign in, and a browser. Nothing may be complained of."""
    executable = chromium.found()
    if executable is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or say where it is in CHROMIUM")
    server = await serve(dev=True, public=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        context = await browser.new_context(**WAYS["light"], reduced_motion="reduce")
        one = Console(server, browser, await context.new_page())
        one.listen(one.page)
        try:
            yield one
        finally:
            await browser.close()
    assert one.complaints == []
