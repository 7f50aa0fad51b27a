"""From a lab's folder to a table of embeddings, in one call."""

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from ..data.sources import open_scans
from ..evaluation.embedding_parts import embed_in_parts, embed_table, read_table
from ..families import weights_source
from .starting_models import load_pretrained


def embed(
    scans: Any,
    model: Any,
    *,
    processor: Any = None,
    output: str | Path | None = None,
    pooling: str = "model",
    level: str = "scan",
    window: str = "all",
    batch_size: int = 8,
    device: str | None = None,
    dtype: str = "float32",
    on_error: str = "skip",
    num_proc: int = 1,
    progress: bool = True,
    **reading: Any,
) -> Any:
    """Embed scans, wherever they are, with a model of any family: one row a scan, with whose it is.

    Args:
        scans: a folder of scans, whatever lab's; a folder that `prepare` wrote; the file of a scan (a table, CIFTI,
            NIfTI), or several; or rows, such as those of [`load_dataset`] and [`dataset_from_arrays`].
        model: a name whose weights [`get`] has fetched, a folder or Hub name with a feature extractor beside the
            weights, or a model; then with `processor`.
        processor: the feature extractor; by default that of the model's folder.
        output: also write the table there, `.parquet`, `.csv` or `.npz`, in parts that an interrupted call goes on
            from; a table of the same settings gets the scans that it lacks. By default it is only returned.
        pooling, level, window, batch_size, device, dtype: see [`embed_dataset`]; the device is a GPU if there is one.
        on_error: `"skip"` leaves out scans that cannot be used, with a warning, or `"raise"`.
        num_proc: processes that read files.
        progress: show progress bars.
        reading: how files are read where they do not say it themselves, such as `t_r`, `roi_order` and `atlas`; see
            [`ROISeriesFolderBuilder`].

    Returns:
        `pandas.DataFrame`: what is known of each scan, `model`, `revision` (the commit on the Hub, or a digest of the
        weights), `preprocessing` (a digest), then `e000`, `e001`, ..., as [`embed_dataset`] gives them.

    Raises:
        FileNotFoundError: if there are no such scans.
        ValueError: if the model cannot be loaded, something has to be told, or no scan can be used.
    """
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    if name:
        source = str(weights_source(name))
        processor = load_pretrained(AutoFeatureExtractor, source) if processor is None else processor
        model = load_pretrained(AutoModel, source)
    elif processor is None:
        raise ValueError("Expected a processor beside a model that is loaded already, got none. Pass processor=.")
    options: dict[str, Any] = {
        "pooling": pooling,
        "level": level,
        "window": window,
        "batch_size": batch_size,
        "dtype": dtype,
    }
    options["device"] = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as work:
        splits, unread = open_scans(
            scans,
            processor.scan_columns,
            Path(work),
            num_proc=num_proc,
            on_error=on_error,
            of_model=processor.file_options,
            **reading,
        )
        if output is not None:
            shared: dict[str, Any] = {"model_name": name, "on_error": on_error, "unread": unread}
            embed_in_parts(model, processor, splits, Path(output), **shared, **options)
            return read_table(Path(output))
        table = embed_table(model, processor, splits, model_name=name, on_error=on_error, progress=progress, **options)
    if left_out := table.attrs["left_out"]:
        warnings.warn(
            f"{len(left_out)} scans were left out (first: {left_out[0]['error']}); see table.attrs['left_out'].",
            UserWarning,
            stacklevel=2,
        )
    table.attrs["left_out"] += [{"split": "", "row": -1, "scan": file, "error": why} for file, why in unread.items()]
    return table
