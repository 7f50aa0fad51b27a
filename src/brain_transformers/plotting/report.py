"""A self-contained HTML page: figures are embedded, nothing is loaded from elsewhere."""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ..files import write_file


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
    """

    def __init__(self, title: str, subtitle: str = ""):
        self.title = title
        self.subtitle = subtitle
        self._blocks: list[tuple[str, dict[str, Any]]] = []

    def _add(self, kind: str, **block: Any) -> None:
        self._blocks.append((kind, block))

    def add_summary(self, lead: str, findings: Sequence[tuple[str, str]]) -> None:
        """A framed box: a sentence, then findings as (verdict, text); verdicts are "wins", "loses", "equal",
        "refused", "warning", ""."""
        self._add("summary", lead=lead, findings=findings)

    def add_section(self, title: str, anchor: str) -> None:
        """Begin a section; `anchor` is its id in the page's list of contents."""
        self._add("section", title=title, anchor=anchor)

    def add_text(self, text: str) -> None:
        """A paragraph."""
        self._add("text", text=text)

    def add_figure(self, figure: Any, caption: str, alt: str, *, wide: bool = False) -> bytes:
        """Embed a matplotlib figure, return its PNG bytes; `wide` ones scroll on a phone instead of shrinking."""
        png = figure_to_png(figure)
        self._add("figure", data=base64.b64encode(png).decode("ascii"), caption=caption, alt=alt, wide=wide)
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
        self._add(
            "table", header=header, rows=rows, caption=caption, digits=digits, strong=strong, text_columns=text_columns
        )

    def add_code(self, text: str, summary: str | None = None) -> None:
        """Preformatted text, folded behind `summary` if that is given."""
        self._add("code", text=text, summary=summary)

    def add_footer(self, text: str) -> None:
        """Small print at the end."""
        self._add("footer", text=text)

    def render(self) -> str:
        """The page as text."""
        template = Path(__file__).with_name("report_template.html").read_text(encoding="utf-8")
        page = Environment(autoescape=True, keep_trailing_newline=True).from_string(template)
        return page.render(
            title=self.title,
            subtitle=self.subtitle,
            sections=[(block["title"], block["anchor"]) for kind, block in self._blocks if kind == "section"],
            blocks=self._blocks,
            verdicts={"wins": "win", "loses": "loss", "equal": "tie", "refused": "loss", "warning": "tie"},
            number=format_number,
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page atomically and return its path."""
        return write_file(path, self.render())
