"""A real Chromium, from Debian's packages, driven by Playwright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.system.debian import chromium
from tests.system.rest import Rest

__all__ = ["WIDE", "Theme", "chromium_browser", "visit"]

Theme = Literal["light", "dark"]
WIDE = (1360, 860)
# A machine that runs a whole Airflow beside it may take that long to draw a page.
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS / 2)


@contextmanager
def chromium_browser() -> Iterator[Browser]:
    """Run Chromium for the time of a block."""
    with sync_playwright() as playwright:
        # Without a sandbox of its own, as root and in containers, it does not start otherwise.
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Browser, airflow: Rest, user: str | None, theme: Theme = "light", size: tuple[int, int] = WIDE
) -> Iterator[Page]:
    """Open a tab that is logged in to Airflow, and has its theme. Errors of scripts on its pages fail the test."""
    context: BrowserContext = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
    context.set_default_timeout(PATIENCE_MS)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    if user is not None:
        context.add_cookies([{"name": "_token", "value": airflow.token(user), "url": airflow.url}])
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
    try:
        yield page
    finally:
        context.close()
    assert not errors, errors
