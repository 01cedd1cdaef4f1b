"""The report in a real browser, where there is one.

Debian's package chromium, or any Chromium or Chrome on the PATH.
"""

import json
import re
import shutil
import subprocess

import pytest

from ensemble import charts
from tests.ensemble.test_report import COMPARED, RESULTS, page, stages

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")
LOOK = """<script>
function looks(e) {
  const box = e.getBoundingClientRect();
  return {text: e.textContent, height: box.height, width: box.width,
          direction: getComputedStyle(e).direction};
}
document.documentElement.dataset.seen = JSON.stringify(
  [...document.querySelectorAll('.query')].map(looks).concat([
    {wide: document.documentElement.scrollWidth - window.innerWidth,
     paper: getComputedStyle(document.body).backgroundColor}]));
</script>"""


def opened(html, folder, *options):
    """What the page's queries look like, the DOM, and what the browser's console said."""
    (folder / "page.html").write_text(html.replace("</body>", LOOK + "</body>"), "utf-8")
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=2000",
            *options,
            "--dump-dom",
            (folder / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    seen = json.loads(re.search(r'data-seen="([^"]*)"', done.stdout)[1].replace("&quot;", '"'))
    return (
        seen[:-1],
        seen[-1],
        done.stdout,
        [line for line in done.stderr.splitlines() if "CONSOLE" in line],
    )


@pytest.fixture(scope="module")
def html():
    def story(text, passage):
        shown = {"docid": "1#0", "title": "", "text": passage, "ranks": {"bm25": 1}, "above": []}
        return {
            "qid": "1",
            "text": text,
            "figures": {"bm25": 0.0},
            "right": shown,
            "wrong": [shown],
        }

    worst = [
        ("ar", [story("ما هي عاصمة مصر؟", "القاهرة")]),
        ("th", [story("เมืองหลวงของประเทศไทยคืออะไร", "กรุงเทพ")]),
        (
            "en",
            [
                story(
                    "is this safe",
                    "<script>document.title = 'broken into'; console.error('ran')</script>"
                    "<img src=x onerror=\"document.title = 'broken into'\">",
                )
            ],
        ),
    ]
    return page(
        title="the title",
        split="testA",
        columns=["en", "known"],
        stages=stages(RESULTS, COMPARED, "testA"),
        tests=[["x"] * 30, ["y"] * 30],
        metrics=[],
        curves=[charts.lines("t", "k", {"a": {1: 0.5, 2: 0.75}})],
        fates_chart=charts.stacked("t", {"en": {"first": 1.0}}),
        fates=[["x"]],
        worst=worst,
        worst_count=3,
        final="x",
        stored=1,
        candidates=1,
        histograms=[charts.histogram("s", {"a": [0.0, 1.0, 2.0]})],
    )


def test_every_script_is_shown_and_none_is_run(html, tmp_path):
    seen, _, dom, console = opened(html, tmp_path)
    assert [(q["text"], q["direction"]) for q in seen] == [
        ("ما هي عاصمة مصر؟", "rtl"),
        ("เมืองหลวงของประเทศไทยคืออะไร", "ltr"),
        ("is this safe", "ltr"),
    ]
    assert all(q["height"] > 10 and q["width"] > 100 for q in seen)
    assert (
        "<title>the title</title>" in dom
        and "&lt;script&gt;document.title" in dom
        and "<img" not in dom
    )
    assert console == []


def test_on_a_phone_nothing_is_wider_than_the_screen(html, tmp_path):
    _, whole, _, _ = opened(html, tmp_path, "--window-size=500,900")
    assert whole["wide"] <= 0, "wide tables scroll in their own box"
