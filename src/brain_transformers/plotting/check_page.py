"""The page of a check: what was found, what the model expects, and carpets of the scans with the gravest findings."""

from collections import Counter
from typing import Any

import numpy as np

from ..optional import require
from ..version import __version__
from .report import HtmlReport
from .style import GREY, INK, SIGNAL_MAP, new_figure, styled

_VERDICTS = {"refused": "refused", "warning": "warning", "ok": "remark"}
_MOST_SCANS, _MOST_FINDINGS, _MOST_KINDS = 100, 40, 8
# Facts of which the page says how many scans have which.
_COUNTED = {
    "roi_order": "order of the parcels",
    "n_rois": "parcels",
    "voxels": "voxels (x, y, z)",
    "t_r": "repetition time, s",
    "n_timepoints": "timepoints",
    "units": "units, by the values",
    "band_hz": "band, Hz",
}
_SHOWN = ("units", "roi_order", "n_rois", "t_r", "n_timepoints", "cut_frames", "constant_parcels", "missing_parcels")


def plot_scan(
    values: Any, *, t_r: float | None = None, title: str | None = None, n_timepoints: int | None = None
) -> Any:
    """A carpet of a scan: every row on its own scale over time, and above it how much all rows change.

    Args:
        values: `(n_rows, n_columns)`, in any units; NaN where nothing was measured, which is grey.
        t_r: seconds between timepoints; without it the axis counts timepoints.
        title: of the figure.
        n_timepoints: that the columns stand for, where they are fewer.

    Returns:
        `matplotlib.figure.Figure`.
    """
    values = np.where(np.isfinite(values), values, np.nan).astype(float)
    with np.errstate(all="ignore"):
        count = np.isfinite(values).sum(axis=1, keepdims=True)
        filled = np.nan_to_num(values)
        mean = filled.sum(axis=1, keepdims=True) / np.maximum(count, 1)
        spread = np.sqrt((np.where(np.isfinite(values), values - mean, 0) ** 2).sum(axis=1, keepdims=True) / count)
        scaled = np.where(spread > 1e-6 * np.abs(mean), (values - mean) / spread, np.nan)
        steps = np.diff(scaled, axis=1, prepend=np.nan) ** 2
        n_steps = np.isfinite(steps).sum(axis=0)
        change = np.sqrt(np.where(n_steps > 0, np.nan_to_num(steps).sum(axis=0) / n_steps, np.nan))
    step = (t_r or 1.0) * (n_timepoints or values.shape[1]) / max(values.shape[1], 1)
    extent = (-0.5 * step, (values.shape[1] - 0.5) * step, len(values) - 0.5, -0.5)
    with styled():
        colormap = require("matplotlib", extra="plot", purpose="drawing figures").colormaps[SIGNAL_MAP]
        figure = new_figure(8.6, 3.4)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 4))
        above.plot(np.arange(values.shape[1]) * step, change, color=INK, lw=0.8)
        above.set_ylabel("change", fontsize=8)
        above.set_ylim(bottom=0)
        above.tick_params(axis="x", length=0)
        image = below.imshow(
            scaled,
            aspect="auto",
            cmap=colormap.with_extremes(bad="#9a9a9a"),
            vmin=-3,
            vmax=3,
            extent=extent,
            interpolation="nearest",
        )
        below.set_ylabel("parcels, or voxels")
        below.set_yticks([])
        below.set_xlabel("time (timepoints)" if t_r is None else "time (s)")
        below.spines[:].set_visible(False)
        colorbar = figure.colorbar(image, ax=[above, below], shrink=0.75, pad=0.015, extend="both")
        colorbar.set_label("deviations of the row", color=GREY)
        colorbar.outline.set_visible(False)
        if title:
            figure.suptitle(title, fontsize=10)
    return figure


def check_page(report: Any) -> HtmlReport:
    """The page of a [`CheckReport`]."""
    counts = report.counts
    page = HtmlReport(f"Check of scans for {report.model}", report.source)
    findings = report.findings()
    lead = (
        f"{len(report.scans):,} scans: {counts['ok']:,} are as the model expects, {counts['warning']:,} are taken "
        f"with a warning, {counts['refused']:,} are refused."
    )
    gravest = [one for one in findings if one[0] != "ok"][:6]
    page.add_summary(lead, [_sentence(one, report) for one in gravest] + [("", note) for note in report.notes])
    page.add_section("What was found", "found")
    if findings:
        page.add_table(
            ["finding", "scans", "first", "in words"],
            [
                [_VERDICTS[status], len(names), _short(names[0]), text]
                for status, text, names in findings[:_MOST_FINDINGS]
            ],
            "Findings of several scans that differ in numbers alone are one, in the words of the first. A remark asks "
            "for nothing. The table scans.tsv beside this page has every scan."
            + (f" {len(findings) - _MOST_FINDINGS} more are in it." if len(findings) > _MOST_FINDINGS else ""),
            text_columns=(0, 2, 3),
        )
    else:
        page.add_text("Nothing: every scan is as the model expects.")
    page.add_section("What the scans are", "scans")
    rows = [row for key, words in _COUNTED.items() if (row := _counted(report, key, words)) is not None]
    page.add_table(["", "scans have"], rows, text_columns=(0, 1))
    page.add_section("What the model expects", "expects")
    page.add_table(["", "of a scan"], [[name, words] for name, words in report.expects.items()], text_columns=(0, 1))
    _add_carpets(page, report)
    _add_flagged(page, report)
    page.add_footer(
        f"brain-transformers {__version__}. What a scan is follows from its file and its values; what the model does "
        "about it is what its processor does, which was asked for every scan."
    )
    return page


def _sentence(finding: tuple[str, str, list[str]], report: Any) -> tuple[str, str]:
    status, text, names = finding
    share = "Every scan" if len(names) == len(report.scans) else f"{len(names):,} of {len(report.scans):,} scans"
    words = text.partition(". ")[0].rstrip(".")
    return status, f"{share}, such as {_short(names[0])}: {words}."


def _short(name: str) -> str:
    """The name of a scan without its file, which the table has."""
    return name.partition(" (")[0]


def _counted(report: Any, key: str, words: str) -> list[str] | None:
    """How many scans have which value of a fact, `None` if none has one."""
    if not any(key in scan.facts for scan in report.scans):
        return None
    found = Counter(scan.facts.get(key) for scan in report.scans)
    parts = [
        f"{'not known' if value is None else value} ({count:,})" for value, count in found.most_common(_MOST_KINDS)
    ]
    more = f" and {len(found) - _MOST_KINDS} other values" if len(found) > _MOST_KINDS else ""
    return [words, ", ".join(parts) + more]


def _add_carpets(page: HtmlReport, report: Any) -> None:
    flagged = [one for one in report.carpets if one[0].status != "ok"]
    shown = flagged or report.carpets[:2]
    if not shown:
        return
    page.add_section("Carpets", "carpets")
    page.add_text(
        "The scans with the gravest findings. " if flagged else "No scan has findings; two of them as examples. "
    )
    for scan, values, t_r in shown:
        page.add_figure(
            plot_scan(values, t_r=t_r, title=_short(scan.scan), n_timepoints=scan.facts.get("n_timepoints")),
            f"{scan.status}: {' '.join(text for status, text in scan.findings if status != 'ok') or 'as expected'}",
            f"Carpet plot of {scan.scan}",
            wide=True,
        )
    page.add_text(
        "Each row is a parcel (or a voxel) on its own scale; grey is what was not measured, was cut, or never "
        "changes. Above: root mean square of the change from one timepoint to the next, over all rows."
    )


def _add_flagged(page: HtmlReport, report: Any) -> None:
    flagged = [scan for scan in report.scans if scan.status != "ok"]
    if not flagged:
        return
    page.add_section("Scans with findings", "flagged")
    # What all scans have in common stands above.
    shown = [key for key in _SHOWN if len({scan.facts.get(key) for scan in report.scans if scan.facts}) > 1]
    flagged.sort(key=lambda scan: scan.status != "refused")
    page.add_table(
        ["scan", "finding", *(key.replace("_", " ") for key in shown)],
        [
            [scan.scan, _VERDICTS[scan.status], *(scan.facts.get(key) for key in shown)]
            for scan in flagged[:_MOST_SCANS]
        ],
        f"The first {_MOST_SCANS} of {len(flagged):,}; the others are in scans.tsv."
        if len(flagged) > _MOST_SCANS
        else "",
        strong=[number for number, scan in enumerate(flagged[:_MOST_SCANS]) if scan.status == "refused"],
        text_columns=(0, 1, *(number + 2 for number, key in enumerate(shown) if key in ("units", "roi_order"))),
    )
