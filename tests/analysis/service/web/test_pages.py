from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from browser import Browser
from colours import contrast
from report_stores import (
    INJECTIONS,
    hostile_store,
    small_study,
    write,
    write_measurements,
    write_training,
)

from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.refitting.refit import refit
from sparsing.analysis.service.app import application
from sparsing.analysis.service.web.pages import FOLDER
from sparsing.analysis.service.web.server import Server
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

TOKEN = "0123456789abcdef"
ENTER, TAB = ("Enter", 13, "\r"), ("Tab", 9, "")


@contextmanager
def serving(store: StudyStore, token: str | None = None) -> Iterator[str]:
    """The address of a service of the store that follows it and does not refit."""
    followed = FollowedStudy(store, refits=False)
    with followed, Server(application([followed], token), "127.0.0.1", 0) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Browser]:
    """The browser, which at the end has seen no error and asked nobody else."""
    browser.errors.clear()
    browser.requests.clear()
    browser.size(1200)
    browser.prefer("light")
    yield browser
    assert browser.errors == []
    elsewhere = [url for url in browser.requests if not url.startswith("http://127.0.0.1:")]
    assert [url for url in elsewhere if not url.startswith("data:,")] == []
    browser.open("about:blank")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    """One run done, one in training, one failed, one planned."""
    made = StudyStore.create(tmp_path_factory.mktemp("half"), small_study())
    done, training, failed, _ = plan_runs(made.study)
    for run, count in ((done, 10), (training, 5)):
        write_training(made, run)
        write_measurements(made, run, count=count, stage="live")
    write(made, "runs", done, [{"step": done.steps, "state": "done"}])
    write(made, "runs", failed, [{"step": 3, "state": "failed", "reason": "CUDA out of memory"}])
    refit(made, code_version="test")
    return made


def drawn(page: Browser, url: str) -> None:
    page.open(url)
    page.until("document.querySelectorAll('#panels canvas').length > 0")
    page.until("document.querySelector('#advice h3')")


def test_what_matters_is_at_the_top(page, store) -> None:
    with serving(store) as url:
        drawn(page, f"{url}/studies/{store.study_id}")
        top = page.run("document.getElementById('top').innerText")
        assert "falls" in top
        assert "Failures 1 run failed; 1 training of 4 runs" in top
        assert "CUDA out of memory" in top
        assert "runs done\n1 of 4" in top
        assert page.run("document.title") == "Failures: small"
        rows = page.run("document.getElementById('runs-table').innerText")
        assert all(run.id in rows for run in plan_runs(store.study))
        assert "relu (live)" in page.run("document.getElementById('limits-table').innerText")


def test_a_curve_moves_when_rows_are_added_and_nothing_else_does(page, tmp_path) -> None:
    made = StudyStore.create(tmp_path, small_study())
    run = plan_runs(made.study)[0]
    write_training(made, run)
    write_measurements(made, run, count=6)
    refit(made, code_version="test")
    with serving(made) as url:
        drawn(page, f"{url}/studies/{made.study_id}")
        page.until("document.getElementById('connection').textContent == 'live'")
        page.run(
            "window.jumps = 0; window.seen = document.querySelector('#panels canvas');"
            "window.was = seen.toDataURL();"
            "new PerformanceObserver(list => list.getEntries().forEach(e => jumps += e.value))"
            ".observe({type: 'layout-shift'})"
        )
        newest = (
            "document.querySelector('#runs-table td[data-head=\"activation ratio\"]').innerText"
        )
        before = page.run(newest)
        write_measurements(made, run, count=9)
        refit(made, code_version="test")
        page.until("window.seen.toDataURL() != window.was")
        assert page.until(newest) != before
        assert page.run("document.body.contains(window.seen)")
        assert page.run("window.jumps") == 0


def test_a_link_opens_a_run_and_keys_alone_do(page, store) -> None:
    first, second, *_ = plan_runs(store.study)
    with serving(store) as url:
        drawn(page, f"{url}/studies/{store.study_id}#{second.id}")
        page.until("document.querySelectorAll('#run canvas').length == 2")
        assert page.run("document.getElementById('run-name').innerText") == f"Run {second.id}"
        drawn(page, f"{url}/studies/{store.study_id}?again")
        assert page.run("document.getElementById('run').hidden")
        reached = []
        for _ in range(60):
            page.key(*TAB)
            where = "document.activeElement"
            reached.append(page.run(f"{where}.id || {where}.textContent"))
            outline = page.run(f"getComputedStyle({where}).outlineStyle")
            assert outline != "none", reached
            if page.run(f"{where}.closest('#runs-table') && {where}.textContent") == first.id:
                break
        assert {"theme", "log", "find", "state"} <= set(reached)
        page.key(*ENTER)
        page.until(f"document.getElementById('run-name').innerText == 'Run {first.id}'")
        page.until("document.querySelectorAll('#run canvas').length == 2")
        assert page.run("document.activeElement.id") == "run"
        page.run("document.getElementById('run-numbers').open = true")
        page.until("document.querySelectorAll('#run-numbers tbody tr').length == 10")


WIDE = """[...document.querySelectorAll('main *, header *')].filter(each => {
  const place = each.getBoundingClientRect();
  return place.width > 2 && place.right > innerWidth + 1 && !each.closest('.skip, .chart');
}).map(each => each.tagName + ' ' + each.textContent.slice(0, 40))"""
TEXTS = """[...document.querySelectorAll('p, dt, dd, td, th, a, button, strong, summary')]
  .filter(each => each.innerText && each.checkVisibility())
  .map(each => getComputedStyle(each).color)"""


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_both_themes_on_desks_and_phones(page, store, tmp_path, width, scheme) -> None:
    page.size(width, 844)
    page.prefer(scheme)
    with serving(store) as url:
        drawn(page, f"{url}/studies/{store.study_id}")
        assert page.run(WIDE) == []
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        paper = page.run("getComputedStyle(document.body).backgroundColor")
        assert (hexed(paper) < "#808080") == (scheme == "dark")
        for colour in set(page.run(TEXTS)):
            assert contrast(hexed(colour), hexed(paper)) >= 4.5, colour
        names = "document.querySelectorAll('a, button, input, select, [role=img]')"
        unnamed = f"[...{names}].filter(e => !e.textContent && !e.ariaLabel && !e.labels?.length)"
        assert page.run(f"{unnamed}.map(e => e.outerHTML)") == []
        assert len(page.screenshot(tmp_path / "page.png")) > 50_000


def hexed(colour: str) -> str:
    parts = colour.removeprefix("rgb(").removesuffix(")").split(",")
    return "#" + "".join(f"{int(part):02x}" for part in parts)


def test_a_theme_can_be_chosen_and_is_kept(page, store) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    with serving(store) as url:
        page.open(url)
        page.until("document.querySelector('.card .said').textContent")
        light = page.run(paper)
        for said in ("light", "dark"):
            page.run("document.getElementById('theme').click()")
            assert page.run("document.getElementById('theme').innerText") == f"Theme: {said}"
        dark = page.run(paper)
        assert dark != light
        drawn(page, f"{url}/studies/{store.study_id}")
        assert page.run(paper) == dark
        page.run("localStorage.clear()")


def test_hostile_texts_stay_texts(page, tmp_path) -> None:
    made = hostile_store(tmp_path)
    with serving(made) as url:
        page.open(f"{url}/studies/{made.study_id}")
        page.until(f"document.querySelectorAll('#troubles li').length == {len(INJECTIONS)}")
        shown = page.run(
            "[...document.querySelectorAll('#troubles li span')].map(e => e.textContent)"
        )
        assert shown == [f": {text}" for text in INJECTIONS]
        assert page.run("document.title") == "Failures: small"
        inside = "main :is(script, style, iframe, img, base, svg, textarea)"
        assert page.run(f"document.querySelectorAll('{inside}').length") == 0
        assert INJECTIONS[0] in page.run("document.querySelector('.description').textContent")
        page.open(url)
        page.until("document.querySelector('.card .said').textContent")
        assert page.run("document.title") == "Studies"


def test_the_token_is_asked_for_once_and_the_page_says_when_it_is_lost(page, store) -> None:
    run = plan_runs(store.study)[0].id
    with serving(store, TOKEN) as url:
        page.open(f"{url}/studies/{store.study_id}#{run}")
        page.until("document.querySelector('input[name=token]')")
        page.until(f"document.querySelector('form').action.endsWith('/login#{run}')")
        page.run("document.getElementById('token').value = 'wrong'; document.forms[0].submit()")
        page.until("document.querySelector('[role=alert]')")
        page.errors.clear()  # the browser's own line on the 403
        page.run(f"document.getElementById('token').value = '{TOKEN}'")
        page.run("document.getElementById('token').focus()")
        page.key(*ENTER)
        page.until("document.querySelectorAll('#panels canvas').length > 0")
        assert TOKEN not in page.run("location.href + document.cookie")
        assert all(TOKEN not in address for address in page.requests)
    page.until("document.getElementById('connection').hasAttribute('data-lost')")
    assert "not reachable" in page.run("document.getElementById('connection').innerText")
    assert "falls" in page.run("document.getElementById('finding').innerText")
    page.call("Network.clearBrowserCookies")
    page.errors.clear()  # of connections refused


def test_charts_code_is_whole_and_names_its_licence() -> None:
    folder = FOLDER
    assert "MIT" in (folder / "uPlot.LICENSE").read_text()
    assert "(v1.6.32)" in (folder / "uPlot.iife.min.js").read_text()[:100]
