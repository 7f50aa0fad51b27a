"""Stage-0 files of the BrainHarmony authors: the tokens of both encoders, one `.npz` a person.

Their pretraining script writes `data` (n_tokens, width) and `attn_mask` (n_fmri_tokens,); their downstream script the
same with an axis of one in front, and `label` (1,). An identifier with `/` has `~` in the name of its file.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..foreign import reading
from .arrays import read_npz
from .errors import ROISeriesReadError
from .row_kinds import TOKENS
from .scan_folders import ScanFolderBuilder

_EXPECTED = "a stage-0 file of BrainHarmony, with data (n_tokens, width) and attn_mask (n_fmri_tokens,)"


def read_stage0(path: str | Path) -> dict[str, Any]:
    """The cells of a row of tokens: `inputs_embeds` float32, `n_tokens`, `attention_mask` int8, `label` and `dtype`.

    Raises:
        ROISeriesReadError: if it is no such file; the message names it.
    """
    with reading(Path(path), _EXPECTED, error=ROISeriesReadError):
        arrays = read_npz(path)
        found = {name: array.shape for name, array in arrays.items()}
        if not {"data", "attn_mask"} <= arrays.keys():
            raise ROISeriesReadError(f"{path}: expected {_EXPECTED}, got {found or 'no arrays'}.")
        tokens, mask = arrays["data"], arrays["attn_mask"]
        tokens = tokens[0] if tokens.ndim == 3 and len(tokens) == 1 else tokens
        mask = mask.reshape(-1)
        if tokens.ndim != 2 or tokens.dtype.kind != "f" or not 0 < len(mask) <= len(tokens):
            raise ROISeriesReadError(f"{path}: expected {_EXPECTED}, got {found}.")
        if not np.isfinite(tokens).all() or not np.isin(mask, (0, 1)).all() or not mask.any():
            raise ROISeriesReadError(f"{path}: expected finite tokens and a mask of 0 and 1, some of them 1.")
        label = arrays["label"].reshape(-1) if "label" in arrays else None
    return {
        "inputs_embeds": np.ascontiguousarray(tokens, dtype=np.float32),
        "n_tokens": len(tokens),
        "attention_mask": mask.astype(np.int8),
        "label": None if label is None else int(label[0]),
        "dtype": "float32",
    }


class Stage0FolderBuilder(ScanFolderBuilder):
    """Build an Arrow dataset of the tokens in a folder of the authors' stage-0 files, for stages 1 and 2.

    Rows hold `inputs_embeds` (flat float32), `n_tokens`, `attention_mask` over the fMRI tokens, `label` where the
    files have one, and the columns of every [`ScanFolderBuilder`]. The authors' pretraining files hold the mask of the
    first sample of a batch for all of its samples, which is wrong where scans of a batch differ in length.

    Args:
        folder: where the files are, at any depth.
        pattern: glob of the files.
        options: of [`ScanFolderBuilder`].
    """

    kind = TOKENS
    # A row of the published size is 26 MB.
    DEFAULT_WRITER_BATCH_SIZE = 4

    def __init__(self, folder: str | Path, *, pattern: str = "**/*.npz", **options: Any) -> None:
        super().__init__(folder, images=None, options={}, pattern=pattern, **options)

    def read(self, path: Path) -> dict[str, Any]:
        """The tokens of a file."""
        return read_stage0(path)
