"""The gateway's dashboard in a real browser: it loads nothing but its numbers, and shows them."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from burstenv.gateway.backends import Backend
from burstenv.gateway.config import GatewayConfig
from burstenv.gateway.dashboard import dashboard_page, dashboard_state
from burstenv.gateway.gateway import Gateway
from burstenv.gateway.incoming import Reader
from burstenv.gateway.ledger import Metrics
from burstenv.gateway.lengths import OutputLengths
from burstenv.gateway.scene import scene_for_gateway
from burstenv.gateway.tokens import TokenCounter

HERE = "http://gateway.test"


def _gateway() -> Gateway:
    """A gateway with something to show, in front of engines that it never meets."""
    scene = scene_for_gateway("default", "mixed-x2", "always/jsq/vllm")
    reader = Reader(TokenCounter(), OutputLengths(), 4096)
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    gateway = Gateway(scene, "always/jsq/vllm", urls, "vllm", GatewayConfig(), reader)
    first = gateway.world.ledgers[0]
    for _ in range(5):
        first.send(100, 0.0)
    first.first_token(100, 0.25, 0.25)
    first.metrics = Metrics(read_s=0.0, waiting=2, running=3, kv_used=0.625)
    second: Backend = gateway.backends.all[1]
    second.available, second.reason, second.ejections = False, "its <health> does not answer", 3
    begin_s = gateway.now_s()
    for outcome in ("attained", "attained", "attained", "late"):
        gateway.counts[outcome] += 1
        gateway.finished.append(
            {
                "arrival_s": begin_s, "first_token_s": begin_s + 0.125, "finish_s": begin_s + 0.5, "class": "api",
                "prompt_tokens": 321, "output_tokens": 7, "replica": 0, "outcome": outcome,
            }
        )  # fmt: skip
    return gateway


def test_the_dashboard_shows_the_gateway(browser: Any) -> None:
    gateway = _gateway()
    asked, wrong = [], []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        if route.request.url == f"{HERE}/dashboard":
            route.fulfill(body=dashboard_page(gateway), content_type="text/html; charset=utf-8")
        elif route.request.url == f"{HERE}/dashboard/state" and len(asked) < 4:
            route.fulfill(body=json.dumps(dashboard_state(gateway)), content_type="application/json")
        else:
            route.fulfill(status=503)

    page.route("**/*", answer)
    page.goto(f"{HERE}/dashboard")
    page.wait_for_function("document.getElementById('state').textContent === 'live'")
    assert page.text_content("#policy") == "always/jsq/vllm"
    assert page.text_content("#attainment") == "75.0 %"
    assert page.text_content("#total") == "4"
    rows = page.locator("#replicas tr")
    assert rows.count() == 2
    shown = rows.nth(0).text_content()
    assert "available" in shown
    assert "62.5 %" in shown
    assert "out: its <health> does not answer" in rows.nth(1).text_content()
    assert page.locator("#last tr").count() == 4
    assert "125 ms" in page.locator("#last tr").first.text_content()
    page.wait_for_function("document.querySelectorAll('#load path.line').length === 2")  # at the second answer
    assert page.locator("#load").is_visible()
    assert page.locator("#kv").is_visible()
    page.wait_for_function("document.getElementById('state').textContent.startsWith('no answer')")
    assert set(asked) <= {f"{HERE}/dashboard", f"{HERE}/dashboard/state"}
    assert wrong == []
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_dashboard_fits_every_screen(browser: Any, width: int, theme: str) -> None:
    gateway = _gateway()
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    page.route("**/dashboard", lambda route: route.fulfill(body=dashboard_page(gateway), content_type="text/html"))
    page.route("**/state", lambda route: route.fulfill(body=json.dumps(dashboard_state(gateway))))
    page.goto(f"{HERE}/dashboard")
    page.wait_for_function("document.querySelectorAll('#replicas tr').length === 2")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
