"""Whether scans are what a model expects: each is looked at, and tried, by the model's own processor."""

import heapq
import itertools
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..data.row_kinds import check_splits, counted
from ..data.saved_datasets import is_saved, load_parts
from ..data.sources import folder_builder
from ..data.synthetic import SYNTHETIC
from ..families import fetched
from ..files import whole_folder, write_file
from ..models.configuration_base import BrainConfig
from ..processing.base import ScanProcessor
from ..processing.rows import scan_name
from ..processing.trials import Look, Trial, try_scan
from .registry import MODELS
from .starting_models import load_pretrained, starting_config

STATUSES = ("ok", "warning", "refused")
TABLE, PAGE = "scans.tsv", "report.html"
# What readers say of frames that were cut, which asks for nothing.
_CUT = "gaps at their true times"
_NAMES = ("subject", "session", "run", "source_file")
_MOST_CARPETS = 6
_CARPET_ROWS, _CARPET_FRAMES = 300, 1200


@dataclass
class ScanCheck:
    """What is known of one scan.

    Attributes:
        scan: what messages call it.
        status: one of `STATUSES`: the model takes it as it is; takes it, with a warning; refuses it.
        findings: (status, what was found), the gravest first; `"ok"` for what asks for nothing.
        facts: column -> text or number.
    """

    scan: str
    status: str
    findings: list[tuple[str, str]]
    facts: dict[str, Any]


@dataclass
class CheckReport:
    """What [`check`] found.

    Attributes:
        model: name or class of the model.
        source: what was checked.
        expects: what the model's processor says of itself.
        scans: one for each scan.
        notes: what is said of all of them.
        left_out: file of the folder that is no scan -> why.
        carpets: scans with the gravest findings, with values (n_rows, n_frames) and seconds between frames.
    """

    model: str
    source: str
    expects: dict[str, str]
    scans: list[ScanCheck] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    carpets: list[tuple[ScanCheck, np.ndarray, float | None]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Status -> number of scans."""
        found = Counter(scan.status for scan in self.scans)
        return {status: found[status] for status in STATUSES}

    def ok(self, strict: bool = False) -> bool:
        """Whether no scan is refused, and none warned of if `strict`."""
        return not self.counts["refused"] and not (strict and self.counts["warning"])

    def findings(self) -> list[tuple[str, str, list[str]]]:
        """(status, what was found in the words of the first scan, all scans it was found in), the gravest first.

        Findings that differ in numbers alone are one.
        """
        groups: dict[tuple[int, str], tuple[str, str, list[str]]] = {}
        for scan in self.scans:
            for status, text in scan.findings:
                key = -STATUSES.index(status), re.sub(r"\(.*?\)|\d[\d.,]*", "", text)
                groups.setdefault(key, (status, text, []))[2].append(scan.scan)
        return [group for _, group in sorted(groups.items(), key=lambda one: (one[0][0], -len(one[1][2])))]

    def table(self) -> list[dict[str, Any]]:
        """One dictionary a scan, with the same columns in all."""
        columns = list(dict.fromkeys(name for scan in self.scans for name in scan.facts))
        return [
            {
                "scan": scan.scan,
                "status": scan.status,
                **{name: scan.facts.get(name) for name in columns},
                "findings": " | ".join(f"{status}: {text}" for status, text in scan.findings),
            }
            for scan in self.scans
        ]

    def write(self, folder: str | Path) -> Path:
        """Write the table (`scans.tsv`) and the page (`report.html`) to a folder, both or none.

        Raises:
            FileExistsError: if something else stands in the way.
            ImportError: without matplotlib (extra `plot`).
        """
        from ..plotting.check_page import check_page

        page = check_page(self).render()
        with whole_folder(folder, is_ours=lambda name: name in (TABLE, PAGE)) as work:
            rows = self.table()
            lines = [list(rows[0])] if rows else [["scan", "status"]]
            lines += [[_cell(value) for value in row.values()] for row in rows]
            write_file(work / TABLE, "".join("\t".join(line) + "\n" for line in lines))
            write_file(work / PAGE, page)
        return Path(folder)


def check(scans: Any, model: Any, *, output: str | Path | None = None, progress: bool = True, **options: Any) -> Any:
    """Look over scans, and say for each what it is and what the processor of a model would do about it.

    Nothing is prepared or computed by the network, so that no weights are needed. Scans are read one at a time.

    Args:
        scans: a file, a folder of files, a folder that `prepare` wrote, a dataset or several by name, a list of rows,
            or a list of arrays (n_rois, n_timepoints) with `roi_order` and `t_r` in `options`.
        model: a named configuration, a folder or Hub name of a model, or a processor.
        output: folder for the table and a page with pictures of the gravest scans; see [`CheckReport.write`].
        progress: show a progress bar.
        options: how files are read, as `load_dataset` takes them: `roi_order`, `t_r`, `pattern`, `name_pattern`, ...

    Returns:
        A [`CheckReport`].

    Raises:
        FileNotFoundError: if there is nothing at that path.
        ValueError: if there is no such model, a folder does not say what is needed to read it, or a dataset holds
            other scans than the model reads.
    """
    called, processor = _processor(model)
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what a reader says is among the findings
        source = _Source.of(scans, processor, options, stack)
        report = CheckReport(called, source.name, processor.describe(), [], source.notes, source.left_out)
        trial = processor
        if called in MODELS:
            report.notes.append(
                f"The scans are held against {called} as it was published. A new model of that name (pretrain, "
                "new_model) takes the parcels of its dataset."
            )
        if not processor.is_fitted:
            trial = processor.unscaled()
            report.notes.append(
                f"The scale of {called} ({report.expects['scale']}) is fitted on training scans, so it is not tried "
                "here."
            )
        worst: list[Any] = []
        bar = tqdm(source.rows, desc="Checking", unit="scan", total=source.total, disable=not progress)
        for number, (split, row, error, said) in enumerate(bar):
            found, look = _checked(row, number, split, error, said, processor, trial)
            report.scans.append(found)
            _keep_worst(worst, number, found, look)
    report.carpets = [
        (found, values, t_r) for _, _, found, values, t_r in sorted(worst, key=lambda one: (-one[0], one[1]))
    ]
    if not report.scans:
        raise ValueError(f"{source.name}: expected scans, got none.")
    if any(scan.facts.pop(SYNTHETIC, False) for scan in report.scans):
        report.notes.append("These scans are synthetic (brain_transformers.synthetic_scans): nothing was measured.")
    if output is not None:
        report.write(output)
    return report


def _processor(model: Any) -> tuple[str, ScanProcessor]:
    """What to call a model, and its processor."""
    if isinstance(model, ScanProcessor):
        return type(model).__name__, model
    name = str(model)
    if name in MODELS and not Path(name).is_dir() and fetched(name) is None:
        config = starting_config(name)
        return name, config.load_processor().from_model_config(config)
    from transformers import AutoConfig

    # Of the configuration, since a model that holds several encoders has a processor for all of them.
    config = load_pretrained(AutoConfig, name)
    if not isinstance(config, BrainConfig):
        raise ValueError(f"{name} holds a {config.model_type!r} model, which is none of this package.")
    return name, load_pretrained(config.load_processor(), name)


# --- where scans come from ---

# Split, the row or None, why there is none, and what the reader said.
Item = tuple[str, Mapping[str, Any] | None, str, Sequence[str]]


@dataclass
class _Source:
    """Scans one after the other, and what is known of all of them."""

    name: str
    rows: Iterable[Item]
    total: int | None
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, scans: Any, processor: ScanProcessor, options: Mapping[str, Any], stack: ExitStack) -> "_Source":
        """What a caller passed."""
        if isinstance(scans, (str, Path)):
            path = Path(scans)
            if not path.exists():
                raise FileNotFoundError(f"{scans}: there is no such file or folder.")
            if not is_saved(path):
                return cls._of_files(path, processor, options, stack)
            scans, name = load_parts(path), str(path)
        else:
            name = "the dataset"
        arrays = isinstance(scans, (list, tuple)) and bool(scans) and not isinstance(scans[0], Mapping)
        if options and not arrays:
            raise ValueError(f"{name} is prepared already: {', '.join(sorted(options))} would change nothing.")
        if arrays:
            scans = [_as_row(scan, number, options) for number, scan in enumerate(scans)]
        by_name = isinstance(scans, Mapping) and processor.reads[0] not in scans
        parts = scans if by_name else {"": [scans] if isinstance(scans, Mapping) else scans}
        check_splits(parts, processor, name)
        lengths = [len(part) if hasattr(part, "__len__") else None for part in parts.values()]
        total = None if None in lengths else sum(length or 0 for length in lengths)
        rows = ((split, row, "", ()) for split, part in parts.items() for row in _numpy(part))
        return cls(name, rows, total)

    @classmethod
    def _of_files(
        cls, path: Path, processor: ScanProcessor, options: Mapping[str, Any], stack: ExitStack
    ) -> "_Source":
        """A file, or a folder of such."""
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        given = {"on_error": "skip", **processor.file_options, **options}
        builder = folder_builder(path, processor.reads[0], work, **given)
        total = sum(map(len, builder.config.files.values()))
        left_out = {} if path.is_file() else builder.left_out
        return cls(str(path), builder.opened(), total, list(builder.notes), left_out)


def _as_row(scan: Any, number: int, options: Mapping[str, Any]) -> dict[str, Any]:
    values = np.asarray(scan)
    if values.ndim != 2 or set(options) - {"roi_order", "t_r"}:
        raise ValueError(
            f"Expected scan {number} as an array (n_rois, n_timepoints), with roi_order and t_r, got shape "
            f"{values.shape} and {', '.join(options) or 'nothing'}."
        )
    known = {"t_r": options.get("t_r"), "roi_order": options.get("roi_order")}
    return {"signals": values, "n_rois": values.shape[0], "n_timepoints": values.shape[1], **known}


def _numpy(part: Any) -> Iterator[Any]:
    """Rows of a dataset in numpy format, which are read forty times faster than lists."""
    formatted = (getattr(part, "format", None) or {"type": None})["type"] in ("numpy", "custom")
    return iter(part if formatted or not hasattr(part, "with_format") else part.with_format("numpy"))


# --- one scan ---


def _checked(
    row: Mapping[str, Any] | None,
    number: int,
    split: str,
    error: str,
    said: Sequence[str],
    processor: ScanProcessor,
    trial: ScanProcessor,
) -> tuple[ScanCheck, Look]:
    """What is found of a scan, and how it looked."""
    name, look, tried = f"scan {number}", Look(), Trial(refused=error)
    if row is not None:
        name = scan_name(row, number)
        if not error:
            try:
                row = processor.as_row(row, number)
                look = processor.look(row, name)
            except ValueError as problem:
                tried = Trial(refused=str(problem))
            else:
                tried = try_scan(trial, row, number)
    findings = [("refused", tried.refused)] if tried.refused else []
    findings += [("ok" if _CUT in text else "warning", text) for text in said]
    findings += [("warning", text) for text in dict.fromkeys([*look.warned, *tried.warned])]
    findings += [("ok", text) for text in dict.fromkeys([*look.remarks, *tried.remarks])]
    # Its name and file stand beside it, and without them what is found in many scans is held once.
    file = str((row or {}).get("source_file") or name)

    def short(text: str) -> str:
        text = re.sub(rf"\S*{re.escape(file)}", "this file", text.replace(name, "this scan"))
        return sys.intern(" ".join(text.split()))

    said_of_it = sorted(((status, short(text)) for status, text in findings), key=lambda one: -STATUSES.index(one[0]))
    facts: dict[str, Any] = {"split": split} if split else {}
    if row is not None:
        facts |= {key: str(row[key]) for key in _NAMES if row.get(key) not in (None, "")}
        facts |= {SYNTHETIC: True} if row.get(SYNTHETIC) else {}
    facts |= look.facts
    if not tried.refused:
        facts |= {"n_windows": tried.n_windows, "observed_tokens": round(tried.observed, 3)}
    status = said_of_it[0][0] if said_of_it else "ok"
    return ScanCheck(name, status, said_of_it, facts), look


def _keep_worst(worst: list[Any], number: int, found: ScanCheck, look: Look) -> None:
    """Keep what a picture needs of the gravest scans, and nothing of the others."""
    facts = found.facts
    lost = facts.get("cut_frames", 0) / max(facts.get("n_timepoints", 1), 1)
    lost += sum(facts.get(key, 0) for key in ("constant_parcels", "missing_parcels")) / max(facts.get("n_rois", 1), 1)
    grave = sum(10.0 ** (3 * STATUSES.index(status)) for status, _ in found.findings if status != "ok") + lost
    if look.carpet is None or (len(worst) == _MOST_CARPETS and worst[0][0] >= grave):
        return
    item = (grave, -number, found, _small(look.carpet()), look.t_r)
    (heapq.heappush if len(worst) < _MOST_CARPETS else heapq.heapreplace)(worst, item)


def _small(values: np.ndarray) -> np.ndarray:
    """At most so many rows and frames; of frames that share a column, the one that stands out."""
    values = values[:: -(-len(values) // _CARPET_ROWS)].astype(np.float32)
    share = -(-values.shape[1] // _CARPET_FRAMES)
    if share == 1:
        return values.copy()
    blocks = values[:, : values.shape[1] // share * share].reshape(len(values), -1, share)
    middle = np.nan_to_num(np.where(np.isfinite(blocks), blocks, np.nan).mean(axis=(1, 2), keepdims=True))
    place = np.where(np.isfinite(blocks), np.abs(blocks - middle), -1).argmax(axis=2)
    return np.take_along_axis(blocks, place[..., None], axis=2)[..., 0]


def _cell(value: Any) -> str:
    """A cell of a table: one line, without tabs; nothing for what is not known."""
    return "n/a" if value is None or value != value else " ".join(str(value).split())


def print_summary(report: CheckReport, most: int = 20) -> None:
    """Print the counts, the findings, and the scans that are not ok."""
    counts = report.counts
    print(
        f"{counted(len(report.scans), 'scan')} of {report.source} for {report.model}: {counts['ok']} ok, "
        f"{counts['warning']} with warnings, {counts['refused']} refused"
    )
    for note in report.notes:
        print(f"note: {note}")
    for status, text, names in report.findings():
        first = names[0].partition(" (")[0]  # without its file
        print(f"{'remark' if status == 'ok' else status} ({counted(len(names), 'scan')}, first: {first}): {text}")
    shown = ("units", "roi_order", "n_rois", "t_r", "n_timepoints", "cut_frames")
    rows = sorted(report.scans, key=lambda scan: -STATUSES.index(scan.status))
    for scan in itertools.islice(rows, most):
        known = ", ".join(f"{key} {_cell(scan.facts[key])}" for key in shown if scan.facts.get(key) is not None)
        print(f"  {scan.status:8} {scan.scan}: {known or 'nothing could be read'}")
    if len(rows) > most:
        print(f"  ... and {len(rows) - most} more")
