"""From files to Arrow to batches: readers, parcellation, dataset builders, collators.

Everything is loaded when it is first used, since `datasets` and nilearn are optional and slow to import.
"""

from ..lazy import lazy_attributes

_EXPORTS = {
    "ROISeries": "readers",
    "ROISeriesCollator": "collators",
    "ScanCollator": "collators",
    "ROISeriesFolderBuilder": "builders",
    "Stage0FolderBuilder": "stage0",
    "T1FolderBuilder": "t1_volumes",
    "VolumeFolderBuilder": "volumes",
    "SemantoksHDF5Builder": "semantoks_hdf5",
    "SemantoksRecordings": "semantoks_hdf5",
    "dataset_from_arrays": "builders",
    "export_parquet": "exports",
    "load_atlas": "atlas_images",
    "load_coordinates": "builders",
    "load_dataset": "builders",
    "pair_datasets": "pairs",
    "parcellate": "parcellation",
    "read_coordinates": "readers",
    "read_roi_series": "readers",
    "read_stage0": "stage0",
    "read_t1": "t1_volumes",
    "read_volumes": "volumes",
    "save_dataset": "saved_datasets",
    "split_subjects": "subject_splits",
    "with_images": "exports",
}

__all__ = list(_EXPORTS)

__getattr__ = lazy_attributes(__name__, _EXPORTS)
