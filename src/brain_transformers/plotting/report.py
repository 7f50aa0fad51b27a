"""A self-contained HTML page: figures are embedded, nothing is loaded from elsewhere."""

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_file

_STYLE = """
:root { --ink: #20242a; --soft: #5b6470; --line: #e2e4e8; --paper: #ffffff; --wash: #f6f7f8; --accent: #0072b2; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--wash); color: var(--ink);
  font: 16px/1.55 -apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 960px; margin: 0 auto; background: var(--paper); padding: 28px 40px 56px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.2em 0 0.15em; letter-spacing: -0.01em; }
h2 { font-size: 1.22rem; margin: 2.2em 0 0.4em; padding-top: 0.9em; border-top: 1px solid var(--line); }
p { margin: 0.6em 0; max-width: 72ch; }
.subtitle { color: var(--soft); margin-top: 0; }
nav { font-size: 0.88rem; margin: 1em 0 0; color: var(--soft); }
nav a { color: var(--accent); text-decoration: none; margin-right: 1.1em; white-space: nowrap; }
.summary { border: 1px solid var(--line); border-left: 4px solid var(--accent); padding: 0.5em 1.2em 0.7em; margin:
  1.4em 0;
  border-radius: 3px; background: #fbfcfd; }
.summary ul { padding-left: 1.15em; margin: 0.4em 0; }
.summary li { margin: 0.4em 0; max-width: 72ch; }
.win, .loss, .tie { display: inline-block; font-size: 0.74rem; font-weight: 600; padding: 0.05em 0.55em;
  border-radius: 9px;
  margin-right: 0.5em; }
.win { background: #d9efe6; color: #00563f; }
.loss { background: #fbe3d6; color: #8a3a00; }
.tie { background: #e8eaed; color: #40474f; }
figure { margin: 1.1em 0 1.4em; }
figure img { display: block; width: 100%; height: auto; }
figcaption, caption { color: var(--soft); font-size: 0.88rem; line-height: 1.45; }
figcaption { margin-top: 0.4em; max-width: 80ch; }
.scroll { overflow-x: auto; margin: 1em 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; min-width: 50%; }
caption { text-align: left; padding-bottom: 0.5em; max-width: 80ch; }
th, td { padding: 0.32em 0.9em 0.32em 0; text-align: right; border-bottom: 1px solid var(--line); white-space:
  nowrap; }
th { font-weight: 600; border-bottom: 1.5px solid #9aa1aa; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td.text, th.text { text-align: left; white-space: normal; }
tr.strong td { font-weight: 600; color: var(--accent); }
pre { background: var(--wash); border: 1px solid var(--line); border-radius: 3px; padding: 0.8em 1em; overflow-x: auto;
  font-size: 0.82rem; line-height: 1.45; }
details summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 3em; padding-top: 1em; border-top: 1px solid var(--line); color: var(--soft); font-size:
  0.85rem; }
@media (max-width: 640px) { main { padding: 18px 16px 40px; } h1 { font-size: 1.4rem; } body { font-size: 15px; }
  th, td { padding-right: 0.7em; } figure.wide { overflow-x: auto; } figure.wide img { min-width: 620px; } }
@media print { body { background: white; } main { max-width: none; padding: 0; } }
"""


def figure_to_png(figure: Any, dpi: int = 160) -> bytes:
    """A matplotlib figure as PNG bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def format_number(value: Any, digits: int = 3) -> str:
    """A number for a table: fixed decimals, a minus sign that is one, and a dash for what does not exist."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"
    return text.replace("-", "−")


class HtmlReport:
    """Collects text, tables and figures and writes them as one HTML file without outside links to load.

    All text is escaped; nothing that a user's file names or labels hold can become markup.

    Args:
        title: headline.
        subtitle: line below it.
        language: of the text.
    """

    def __init__(self, title: str, subtitle: str = "", language: str = "en"):
        self.title = title
        self.subtitle = subtitle
        self.language = language
        self._blocks: list[str] = []
        self._sections: list[tuple[str, str]] = []

    def add_summary(self, lead: str, findings: Sequence[tuple[str, str]]) -> None:
        """A framed box: a sentence, then findings as (verdict, text); verdicts are "wins", "loses", "equal", ""."""
        items = []
        for verdict, text in findings:
            kind = {"wins": "win", "loses": "loss", "equal": "tie"}.get(verdict)
            badge = f'<span class="{kind}">{html.escape(verdict)}</span>' if kind else ""
            items.append(f"<li>{badge}{html.escape(text)}</li>")
        self._blocks.append(f'<div class="summary"><p>{html.escape(lead)}</p><ul>{"".join(items)}</ul></div>')

    def add_section(self, title: str, anchor: str) -> None:
        """Begin a section; `anchor` is its id in the page's list of contents."""
        self._sections.append((title, anchor))
        self._blocks.append(f'<h2 id="{html.escape(anchor, quote=True)}">{html.escape(title)}</h2>')

    def add_text(self, text: str) -> None:
        """A paragraph."""
        self._blocks.append(f"<p>{html.escape(text)}</p>")

    def add_figure(self, figure: Any, caption: str, alt: str, *, wide: bool = False) -> bytes:
        """Embed a matplotlib figure, return its PNG bytes; `wide` ones scroll on a phone instead of shrinking."""
        png = figure_to_png(figure)
        data = base64.b64encode(png).decode("ascii")
        kind = ' class="wide"' if wide else ""
        self._blocks.append(
            f'<figure{kind}><img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
        return png

    def add_table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[Any]],
        caption: str = "",
        *,
        digits: int = 3,
        strong: Sequence[int] = (),
        text_columns: Sequence[int] = (),
    ) -> None:
        """A table; floats get `digits` decimals, rows in `strong` stand out, `text_columns` are left-aligned."""

        def cell(tag: str, column: int, value: Any) -> str:
            kind = ' class="text"' if column in text_columns else ""
            return f"<{tag}{kind}>{html.escape(format_number(value, digits))}</{tag}>"

        head = "".join(cell("th", column, name) for column, name in enumerate(header))
        body = []
        for number, row in enumerate(rows):
            kind = ' class="strong"' if number in strong else ""
            body.append(f"<tr{kind}>{''.join(cell('td', column, value) for column, value in enumerate(row))}</tr>")
        title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        self._blocks.append(
            f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )

    def add_code(self, text: str, summary: str | None = None) -> None:
        """Preformatted text, folded behind `summary` if that is given."""
        block = f"<pre>{html.escape(text)}</pre>"
        self._blocks.append(
            f"<details><summary>{html.escape(summary)}</summary>{block}</details>" if summary else block
        )

    def add_footer(self, text: str) -> None:
        """Small print at the end."""
        self._blocks.append(f"<footer>{html.escape(text)}</footer>")

    def render(self) -> str:
        """The page as text."""
        links = " ".join(
            f'<a href="#{html.escape(anchor, quote=True)}">{html.escape(title)}</a>'
            for title, anchor in self._sections
        )
        navigation = f"<nav>{links}</nav>" if links else ""
        subtitle = f'<p class="subtitle">{html.escape(self.subtitle)}</p>' if self.subtitle else ""
        return (
            f'<!DOCTYPE html>\n<html lang="{html.escape(self.language, quote=True)}"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head>\n"
            f"<body><main><h1>{html.escape(self.title)}</h1>{subtitle}{navigation}\n" + "\n".join(self._blocks) + "\n"
            "</main></body></html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page atomically and return its path."""
        return write_file(path, self.render())
