"""The HTML page is whole, safe and loads nothing from elsewhere."""

import base64
import re

import pytest

from brain_transformers.plotting import HtmlReport


def test_text_is_escaped_and_nothing_is_loaded(tmp_path) -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    report = HtmlReport("A <b> & title", "subject <script>alert(1)</script>")
    report.add_summary("lead", [("wins", "x < y"), ("loses", "z"), ("", "plain")])
    report.add_section("Part one", "one")
    report.add_text("1 < 2 & 3")
    figure = figure_module.Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    png = report.add_figure(figure, "caption", 'alt "quoted"')
    report.add_table(["name", "value"], [["a<b", -0.5], ["c", float("nan")], ["n", 12345]], "numbers", strong=[0])
    report.add_code("print('<hi>')", "code")
    page = report.write(tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "A &lt;b&gt; &amp; title" in page
    assert '<a href="#one">Part one</a>' in page
    assert 'id="one"' in page
    assert 'class="win">wins</span>x &lt; y' in page
    assert "<td>−0.500</td>" in page
    assert "<td>–</td>" in page
    assert "<td>12,345</td>" in page
    embedded = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert embedded is not None
    assert base64.b64decode(embedded.group(1)) == png
    assert 'alt="alt &#34;quoted&#34;"' in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:|#)", page)
    assert "@import" not in page
    assert "url(" not in page
