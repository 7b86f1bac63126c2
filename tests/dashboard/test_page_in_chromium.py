"""The page in a real Chromium, over a real API server that holds a cluster in each of five states.

Screenshots stay in `build/dashboard/`: what a newcomer sees first is to be looked at, not only asserted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright

from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.credentials import find_credentials
from batchwright_operator.plugin.dashboard import following
from batchwright_operator.plugin.operator_metrics import OperatorMetrics
from batchwright_operator.plugin.target import ClusterTarget
from batchwright_worker.dashboard.feed import Feed
from batchwright_worker.dashboard.page import snapshot
from batchwright_worker.dashboard.server import page_served
from e2e.browser import chromium
from e2e.cluster import ControlPlane
from e2e.page import packages
from tests.dashboard.states import STATES, State, with_a_past
from tests.plugin import world
from tests.plugin.cluster_objects import deployment
from tests.reconcile.bed import ROOT, SYSTEM

pytestmark = pytest.mark.apiserver
PICTURES = Path(os.environ.get("BATCHWRIGHT_SCREENSHOTS") or ROOT / "build" / "dashboard")
WIDE = {"width": 1440, "height": 900}
NARROW = {"width": 420, "height": 860}


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with world.start("dashboard") as plane:
        yield plane


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    found = chromium()
    async with async_playwright() as driver:
        launched = await driver.chromium.launch(
            executable_path=found.program, args=list(found.arguments), env={**os.environ, **found.environment}
        )
        try:
            yield launched
        finally:
            await launched.close()


@asynccontextmanager
async def opened(plane: ControlPlane, state: State) -> AsyncIterator[tuple[Page, Feed, list[str]]]:
    """The page of this cluster, live; with what the browser complained of."""
    target = ClusterTarget(kubeconfig=plane.kubeconfig, context=None, asked="", system=SYSTEM)
    credentials = await asyncio.to_thread(find_credentials, plane.kubeconfig)
    feed = Feed()

    async def read() -> OperatorMetrics:
        return state.metrics

    async with ApiClient(credentials) as client, following(client, target, feed, read), browser() as launched:
        async for _ in feed.events():
            if feed.overview is not None:
                break
        assert feed.overview is not None
        feed.history.times.clear()
        feed.history.samples.clear()
        with_a_past(feed.history, feed.overview, state.busy)
        async with page_served(feed) as address:
            # Without a locale uPlot has no number format.
            context = await launched.new_context(locale="en-US")
            page = await context.new_page()
            complaints = listened(page)
            await page.set_viewport_size(WIDE)  # type: ignore[arg-type]
            await page.goto(address)
            await page.wait_for_selector("header .live")
            yield page, feed, complaints


def listened(page: Page) -> list[str]:
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


async def picture(page: Page, name: str) -> None:
    await page.wait_for_timeout(150)  # charts take their size
    await page.screenshot(path=PICTURES / f"{name}.png")


async def show(page: Page, view: str) -> None:
    await page.click(f"#tab-{view}")
    await page.wait_for_selector(f"#tab-{view}[aria-selected=true]")


EXPECTED = {
    "empty": ("Nothing is deployed yet", "kubectl apply -k manifests/samples"),
    "healthy": ("All is well", "default/ocr"),
    "overloaded": ("to look at", "add replicas, or let an autoscaler do it"),
    "failing": ("to act on", "no operator leads"),
    "thousand": ("1 to act on", "1,500 processors on 1,000 nodes"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak) if name == "thousand" else name for name in STATES]
)
async def test_each_state_is_shown(plane: ControlPlane, name: str) -> None:
    state = STATES[name]()
    world.put(plane, state.objects)
    try:
        async with opened(plane, state) as (page, feed, complaints):
            for text in EXPECTED[name]:
                await page.wait_for_selector(f"text={text}")
            await picture(page, f"{name}-overview")
            await _readable_by_others(page)
            for view in ("processors", "models", "jobs"):
                await show(page, view)
                await picture(page, f"{name}-{view}")
                await _readable_by_others(page)
            if name == "failing":
                await _harmless(page, feed)
            if name == "healthy":
                await _as_a_user(plane, page, feed)
            if name == "thousand":
                await _measured(plane, page)
            await _in_the_dark(page, name)
            assert complaints == []
    finally:
        world.clear(plane)


async def _readable_by_others(page: Page) -> None:
    """By screen readers and keyboards, as axe-core judges it by the rules of WCAG 2.2 A and AA."""
    source = packages(ROOT / "e2e" / "accessibility") / "axe-core" / "axe.min.js"
    await page.evaluate(await asyncio.to_thread(source.read_text))
    found = await page.evaluate(AXE)
    assert found == []


AXE = """async () => (await axe.run(document, {
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], resultTypes: ["violations"],
})).violations.map(each => [each.id, each.help, each.nodes.slice(0, 3).map(one => one.html.slice(0, 200))])"""


async def _harmless(page: Page, feed: Feed) -> None:
    """What objects say is text, on the live page and in the file that is kept, whatever is in it. An address that a
    hand has written shows a view all the same."""
    await show(page, "events")
    await page.wait_for_selector("text=onerror")
    assert await page.locator("#view img, #view script, #view a").count() == 0
    assert await page.evaluate("window.pwned") is None
    await page.evaluate("location.hash = '%E0%A4%A'")
    await page.wait_for_selector("#tab-overview[aria-selected=true]")
    assert feed.overview is not None
    kept = PICTURES / "failing-snapshot.html"
    await asyncio.to_thread(kept.write_text, snapshot(feed.overview, feed.history))
    other = await page.context.new_page()
    complaints = listened(other)
    await other.goto(kept.as_uri() + "#%")
    await other.wait_for_selector("text=snapshot of")
    assert await other.evaluate("window.pwned") is None
    assert complaints == []


async def _in_the_dark(page: Page, name: str) -> None:
    """The overview, for people who work at night: text stands out from what is behind it, as WCAG 2 asks (4.5)."""
    for scheme in ("dark", "light"):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        await show(page, "overview")
        await page.wait_for_selector(f"html[data-theme={scheme}]")
        faint = await page.evaluate(FAINT)
        assert faint == [], (scheme, faint)
        if scheme == "dark":
            await picture(page, f"{name}-overview-dark")


FAINT = """() => {
  const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const color = numbers(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const found = new Set();
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some(each => each.nodeType === 3 && each.data.trim());
    const style = getComputedStyle(one);
    if (!own || !one.offsetParent || style.opacity !== "1" || !style.color.startsWith("rgb")) continue;
    const [high, low] = [light(numbers(style.color)), light(behind(one))].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) found.add(`${one.className || one.tagName}: ${contrast.toFixed(2)}`);
  }
  return [...found];
}"""
"""Classes of elements whose own text is too faint."""


async def _measured(plane: ControlPlane, page: Page) -> None:
    """What 1,000 nodes cost a browser: the first paint, an update of twenty nodes' processors, a word in the filter."""
    await show(page, "overview")
    await page.reload()
    await page.wait_for_selector("text=1,500 processors on 1,000 nodes")
    paint = await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    whole = await page.evaluate("performance.now()")
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable")

    async def busy() -> float:
        told = await devtools.send("Performance.getMetrics")
        return float(next(each["value"] for each in told["metrics"] if each["name"] == "TaskDuration"))

    await show(page, "processors")
    before = await busy()
    for number in range(10):
        nodes = [f"ip-10-0-{n}-7.eu-central-1.compute.internal" for n in range(20 * number, 20 * number + 20)]
        patch = {"spec": {"unschedulable": True}}
        await asyncio.to_thread(plane.api.patch_all, ((f"/api/v1/nodes/{name}", patch) for name in nodes))
        await page.wait_for_timeout(700)
    update = (await busy() - before) / 10
    began = await busy()
    await page.keyboard.press("/")
    await page.keyboard.type("10-3-24")
    await page.wait_for_timeout(300)
    word = await busy() - began
    await picture(page, "thousand-processors-filtered")
    await page.keyboard.press("Escape")
    times = {"first paint": paint, "all drawn": whole, "an update": 1000 * update, "seven letters": 1000 * word}
    print("at 1,000 nodes: " + ", ".join(f"{name} {each:.0f} ms" for name, each in times.items()))
    # An update comes twice a second at most: this far from being busy with them, on whatever machine.
    assert update < 0.5


async def _as_a_user(plane: ControlPlane, page: Page, feed: Feed) -> None:
    """Live, by keyboard, dark, on a telephone, and kept as a file."""
    await show(page, "models")
    world.put(plane, [deployment("brand-new", namespace="shop")])
    await page.wait_for_selector("text=brand-new")
    await page.keyboard.press("/")
    await page.keyboard.type("embed")
    assert await page.locator("button.choice").count() == 1
    await page.focus("#tab-models")
    await page.keyboard.press("ArrowRight")
    await page.wait_for_selector("#tab-jobs[aria-selected=true]")
    await show(page, "overview")
    await page.emulate_media(color_scheme="dark")
    await page.wait_for_selector("html[data-theme=dark]")
    await picture(page, "healthy-overview-dark")
    await show(page, "models")
    await picture(page, "healthy-models-dark")
    await page.emulate_media(color_scheme="light")
    await page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    await show(page, "overview")
    await picture(page, "healthy-overview-narrow")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert feed.overview is not None
    kept = PICTURES / "healthy-snapshot.html"
    await asyncio.to_thread(kept.write_text, snapshot(feed.overview, feed.history))
    other = await page.context.new_page()
    complaints = listened(other)
    await other.set_viewport_size(WIDE)  # type: ignore[arg-type]
    await other.goto(kept.as_uri())
    await other.wait_for_selector("text=snapshot of")
    await other.wait_for_selector("text=default/ocr")
    await picture(other, "healthy-snapshot")
    assert complaints == []
