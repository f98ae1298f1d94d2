"""Reports in a real browser: on a phone, on a desk and on paper, from the disk and without a network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from report_parts import full_report

from mixaug.evaluate import compare

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the pages in"),
]
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# What the page itself allows, and the script that measures it.
_MEASURED = _POLICY + "; script-src 'unsafe-inline'"
_SCRIPT = """
<script>
const violations = [];
document.addEventListener("securitypolicyviolation", event => violations.push(event.blockedURI));
addEventListener("load", () => {
  const wide = document.documentElement.clientWidth;
  const outside = [...document.body.querySelectorAll("*")].filter(
    each => !each.closest(".scroll > *") && !each.closest("details:not([open]) > :not(summary)")
      && each.getBoundingClientRect().right > wide + 1);
  const shown = [...document.images];
  document.querySelectorAll("details").forEach(each => each.open = true);
  const found = {
    inner: innerWidth, wide, scroll: document.documentElement.scrollWidth,
    open: document.documentElement.scrollWidth,
    outside: outside.map(each => each.tagName + "." + each.className),
    images: shown.length,
    empty: shown.filter(each => !(each.complete && each.naturalWidth > 0)).length,
    cut: shown.filter(each => each.getBoundingClientRect().width > wide).length,
    small: [...document.querySelectorAll("p, td, th, figcaption, li")].filter(
      each => each.textContent.trim() && parseFloat(getComputedStyle(each).fontSize) < 11).length,
    boxes: [...document.querySelectorAll(".scroll")].map(each => getComputedStyle(each).overflowX),
    banner: (each => each && each.getBoundingClientRect().bottom)(document.querySelector(".banner")),
    fetched: performance.getEntriesByType("resource").map(each => each.name).filter(name => !name.startsWith("data:")),
    violations,
  };
  const note = document.createElement("pre");
  note.id = "measured";
  note.textContent = JSON.stringify(found);
  document.body.append(note);
  if (parent !== window) parent.postMessage(note.textContent, "*");
});
</script>
"""
# A window of Chromium is never narrower than 500 px; a frame in it is.
_FRAME = """<!doctype html><body style="margin:0"><pre id="measured"></pre>
<iframe src="%s" style="border:0;width:%dpx;height:800px"></iframe>
<script>addEventListener("message", event => document.getElementById("measured").textContent = event.data)</script>
"""


def chromium(folder, *arguments):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


def measured(page, width):
    """What the browser says of the page at this width."""
    folder = page.parent
    text = page.read_text()
    assert text.count(_POLICY) == 1
    inside = folder / f"measured-{width}.html"
    inside.write_text(text.replace(_POLICY, _MEASURED).replace("<style>", _SCRIPT + "<style>", 1))
    outside = folder / f"frame-{width}.html"
    outside.write_text(_FRAME % (inside.name, width))
    dom = chromium(folder, "--virtual-time-budget=20000", "--window-size=1400,900", "--dump-dom", f"file://{outside}")
    found = re.search(r'<pre id="measured">(.*?)</pre>', dom, re.S)
    assert found and found[1], dom[:500]
    return json.loads(unescape(found[1]))


def pages_of_pdf(folder, page):
    """The page printed: the number of sheets."""
    target = folder / f"{page.stem}.pdf"
    chromium(folder, f"--print-to-pdf={target}", "--no-pdf-header-footer", f"file://{page}")
    data = target.read_bytes()
    assert data.startswith(b"%PDF")
    sizes = {tuple(map(float, found.split())) for found in re.findall(rb"/MediaBox \[([\d. ]+)\]", data)}
    assert {(round(size[2]), round(size[3])) for size in sizes} == {(595, 842)}  # A4
    return len(re.findall(rb"/Type /Page\b(?!s)", data))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser-report")
    return full_report("a-model-with-a-name-of-many-letters-and-no-space-in-it", masked=True).save(folder / "r.html")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    reports = [full_report(f"model_number_{k}_of_twelve", wrong=5 + k, worse=k % 8, masked=k == 3) for k in range(12)]
    return compare(reports).save(tmp_path_factory.mktemp("browser-comparison") / "c.html")


@pytest.mark.parametrize("kind", ["report", "comparison"])
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_leaves_the_screen(kind, width, request):
    page = request.getfixturevalue(kind)
    found = measured(page, width)
    assert found["inner"] == width
    assert found["scroll"] == found["open"] == width  # the page itself does not scroll sideways
    assert found["outside"] == []
    assert found["cut"] == 0
    assert found["small"] == 0
    assert set(found["boxes"]) == {"auto"}


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_pictures_load_and_nothing_is_fetched(kind, request):
    page = request.getfixturevalue(kind)
    found = measured(page, 800)
    assert found["images"] == page.read_text().count("<img ") > 5
    assert found["empty"] == 0
    assert found["fetched"] == []
    assert found["violations"] == []


def test_the_verdict_is_on_the_first_screen_of_a_phone(report):
    assert 0 < measured(report, 360)["banner"] < 640


@pytest.mark.parametrize(("kind", "fewest", "most"), [("report", 5, 12), ("comparison", 6, 16)])
def test_printed(kind, fewest, most, request):
    page = request.getfixturevalue(kind)
    assert fewest <= pages_of_pdf(page.parent, page) <= most


def test_the_measurement_sees_what_it_must(report, tmp_path):
    """A page with a wide block, a foreign picture and a broken one."""
    wrong = '<p style="width:2000px">wide</p><img src="https://x.example/a.png"><img src="data:image/png;base64,AAAA">'
    page = tmp_path / "wrong.html"
    page.write_text(report.read_text().replace("<main>", f"<main>{wrong}", 1))
    found = measured(page, 360)
    assert found["scroll"] > 360
    assert "P." in found["outside"]
    assert found["empty"] == 2
    assert found["violations"] == ["https://x.example/a.png"]
