from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import chromium
from click.testing import CliRunner
from colours import contrast
from report_stores import (
    INJECTIONS,
    finished_store,
    hostile_store,
    small_study,
    write,
    write_measurements,
    write_training,
)

from sparsing.analysis.commands.laws import report
from sparsing.analysis.figures.data import StudyData, near_groups, spaced_by_ratio
from sparsing.analysis.figures.style import PAPER, RAMPS, dark, shades
from sparsing.analysis.refitting.refit import refit
from sparsing.analysis.report.finding import direction, finding, rank_correlation
from sparsing.analysis.report.report import main_figure, render_report, write_report
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

MOST_BYTES = 1_500_000
VOID = {"meta", "br", "hr", "link", "img", "use", "input"}


class Page(HTMLParser):
    """Collects what a page refers to, its ids, its text, and elements that do not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.references += [given[key] or "" for key in ("src", "href") if key in given]
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> StudyStore:
    return finished_store(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def html(finished) -> str:
    return write_report(finished).read_text("utf-8")


def test_page_is_self_contained_small_and_well_formed(html) -> None:
    page = Page(html)
    assert len(html.encode()) < MOST_BYTES
    assert page.references
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert not re.search(r"https?://|url\((?!#)|@import", html)
    assert "default-src 'none'" in html
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))


def test_every_colour_of_a_figure_has_a_value_in_both_themes(html) -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", html))
    light, night = html.split("@media screen and (prefers-color-scheme: dark)")
    for name in used:
        assert f"--{name}:" in light
        assert f"--{name}:" in night or name == "font"


def test_page_says_what_the_study_found_and_shows_all_parts(html) -> None:
    text = Page(html).text
    assert "falls with training tokens for ReLU" in text
    assert "rises for SiLU" in text
    assert "at nearly equal validation loss" in text
    for part in (
        "Activation ratio against tokens",
        "in the warm-up, not fitted",
        "95 % band of the law",
        "Training loss, smoothed",
        "Validation loss, dense model",
        "Dead neurons",
        "perplexity rise (asked 1 %)",
        "CPU, float32, ZeRO 0",
        "prose",
        "peak_learning_rate",
        "No run failed.",
    ):
        assert part in text, part
    assert "Width and depth" not in text
    assert "not at its end" not in text


def test_same_store_same_report(finished, html) -> None:
    def without_time(page: str) -> str:
        return re.sub(r"report of [\d: -]+UTC", "", page)

    assert without_time(render_report(finished)) == without_time(html)


def test_empty_study_says_what_is_missing(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    text = Page(render_report(store)).text
    assert "Nothing has been measured yet." in text
    assert "No law has been fitted yet" in text
    assert "No step has been trained yet." in text
    assert "4 planned" in text
    assert main_figure(store).axes == []


def test_hostile_texts_stay_texts(tmp_path) -> None:
    page = Page(render_report(hostile_store(tmp_path)))
    assert not {"script", "iframe", "img", "base", "textarea", "link"} & set(page.tags)
    assert page.tags.count("style") == page.tags.count("title") == 1
    assert all(reference.startswith("#") for reference in page.references)
    for text in INJECTIONS:
        assert text.strip() in page.text


def test_half_way_study_with_one_checkpoint_and_a_failed_run(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    relu, other, *_ = plan_runs(store.study)
    write_training(store, relu)
    write_measurements(store, relu, count=1, stage="live")
    reason = "<script>alert('x')</script> & a lost shard"
    write(store, "runs", other, [{"step": 3, "state": "failed", "reason": reason}])
    html = render_report(store)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    text = Page(html).text
    assert reason in text
    assert "too few measured checkpoints" in text
    assert "No law has been fitted yet" in text
    assert "measured (live CETT)" not in text  # the only one is in the warm-up
    assert "1 training" in text


def test_first_step_and_ratios_of_nothing(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    run = plan_runs(store.study)[0]
    step = {"step": 1, "tokens": 1024, "loss": 5.5, "learning_rate": 0.01}
    write(store, "steps", run, [step | {"tokens_per_second": 1e4, "step_seconds": 0.1}])
    sparsity = {"step": 60, "tokens": 61440, "stage": "live", "metric": "cett_ppl"}
    sparsity |= {"p_percent": 1.0, "cett": 0.1, "activation_ratio": 0.0}
    sparsity |= {"measured_tokens": 100, "measure_seconds": 0.1}
    write(store, "sparsity", run, [sparsity])
    text = Page(render_report(store)).text
    assert "newest ratio, ReLU" in text
    assert "No activation frequencies of neurons have been measured yet." in text


def test_few_points_that_identify_nothing_are_said_to(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    run = plan_runs(store.study)[0]
    write_measurements(store, run, count=4, stage="live")
    refit(store, code_version="test")
    text = Page(render_report(store)).text
    assert "not identified: the points bound it on neither side" in text
    assert "3 (and 1 in the warm-up)" in text
    assert "measured (live CETT)" in text


def test_axes_of_shape_have_their_figures(tmp_path) -> None:
    shapes = [{"d_h": 32, "layers": 4, "heads": 2}, {"d_h": 64, "layers": 8, "heads": 4}]
    flat = {"activation": "relu", "scale": {"d_h": 46, "layers": 2, "heads": 1}}
    axes = {"activation": ["relu"], "scale": shapes}
    store = finished_store(tmp_path, axes=axes, runs=[flat], tokens=204_800)
    text = Page(render_report(store)).text
    assert "Width and depth" in text
    assert "width-depth ratio d_h / layers" in text
    assert "non-embedding parameters" in text
    assert "d46x2" in text


def test_direction_is_unclear_where_seeds_or_chance_say_so(finished, tmp_path) -> None:
    data = StudyData.read(finished)
    relu, silu = data.by_activation().values()
    assert direction(relu)[0] == "falls"
    assert direction(silu)[0] == "rises"
    assert direction([relu[0], silu[0]])[0] == "unclear"
    correlation, chance = rank_correlation(relu[0]) or (0.0, 1.0)
    assert correlation < -0.8
    assert chance < 0.01
    assert len(relu[0].stable_points) == 9  # one of ten is in the warm-up
    store = StudyStore.create(tmp_path, small_study())
    run = plan_runs(store.study)[0]
    write_measurements(store, run, count=5)
    assert "too few" in finding(StudyData.read(store))


def test_main_figure_has_a_panel_for_each_activation(finished, tmp_path) -> None:
    figure = main_figure(finished)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["ReLU", "SiLU"]
    figure.savefig(tmp_path / "main.png", dpi=110)
    assert (tmp_path / "main.png").stat().st_size < 150_000


def test_command_writes_the_report(finished) -> None:
    root = str(finished.path.parent)
    done = CliRunner().invoke(report, ["small", "--store", root, "--json"])
    assert done.exit_code == 0, done.output
    assert Path(json.loads(done.output)["report"]) == finished.path / "report.html"
    assert not list(finished.path.glob("*.tmp"))


def test_spacing_and_near_values() -> None:
    assert spaced_by_ratio((100, 200, 400, 800))
    assert not spaced_by_ratio((100, 200, 300, 400))
    assert not spaced_by_ratio((5,))
    assert near_groups([52.0, 48.0, 114.0, 50.0]) == [[1, 3, 0], [2]]


@pytest.mark.parametrize("activation", RAMPS)
def test_colours_stay_visible_in_both_themes(activation) -> None:
    for colour in shades(activation, 9):
        assert contrast(colour, PAPER) > 1.6
        assert contrast(dark(colour), dark(PAPER)) > 1.6
    assert shades(activation, 1) == shades(activation, 3)[1:2]


@pytest.mark.slow
def test_large_study_stays_small(tmp_path) -> None:
    """60 runs of 40 checkpoints: two activations, five scales, six seeds."""
    scales = [{"d_h": 16 * n, "layers": 2 * n, "heads": n} for n in range(2, 7)]
    axes = {"activation": ["relu", "silu"], "scale": scales, "seed": [0, 1, 2, 3, 4, 5]}
    store = finished_store(tmp_path, axes=axes, checkpoints={"count": 40})
    html = write_report(store).read_text("utf-8")
    assert len(html.encode()) < MOST_BYTES
    assert "One point in 2 is marked." in html


PROBE = """<script>
const wide = [];
for (const element of document.querySelectorAll('body *')) {
  const place = element.getBoundingClientRect(), svg = element.ownerSVGElement;
  const frame = svg ? svg.getBoundingClientRect() : {left: 0, right: innerWidth};
  const shown = !svg || element.tagName === 'text';  // bands are clipped to their axes
  if (shown && (place.right > frame.right + 1 || place.left < frame.left - 1))
    wide.push(element.tagName + ' ' + element.textContent.slice(0, 40));
}
parent.postMessage(innerWidth + ' wide: ' + wide.join('; ') + '.', '*');
</script></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_browser_shows_the_page_without_overflow(html, tmp_path, width) -> None:
    """Rendered by Chromium: nothing reaches beyond the window, no label beyond its figure."""
    browser = chromium()
    probed = html.replace("Content-Security-Policy", "").replace("</body>", PROBE)
    (tmp_path / "page.html").write_text(probed, "utf-8")
    # In a frame, for headless windows have a least width.
    frame = f'<iframe src="page.html" style="border: 0; width: {width}px; height: 9000px">'
    listen = "<script>onmessage = event => document.title = event.data</script>"
    (tmp_path / "frame.html").write_text(listen + frame)
    shot = tmp_path / "page.png"
    place = (tmp_path / "frame.html").as_uri()
    found = [
        run_browser(browser, tmp_path, *arguments)
        for arguments in (["--dump-dom", place], [f"--screenshot={shot}", place])
    ]
    assert f"<title>{width} wide: .</title>" in found[0]
    assert shot.stat().st_size > 50_000


def run_browser(browser: str, folder: Path, *arguments: str) -> str:
    """Standard output of a headless Chromium that asks nobody for anything."""
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    switches += ["--disable-background-networking", "--disable-component-update"]
    switches += ["--disable-sync", "--virtual-time-budget=3000", "--window-size=1300,9000"]
    command = [browser, *switches, f"--user-data-dir={folder / 'profile'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
