"""Gradients and harmonics of parcels that come with the package."""

import numpy as np
import pytest

from brain_transformers.atlases.parcel_tables import parcel_table
from brain_transformers.atlases.roi_orders import permutation, roi_labels


@pytest.mark.parametrize(("name", "n_columns"), [("gradients", 30), ("harmonics", 200)])
def test_rows_go_with_the_names_of_the_parcels(name: str, n_columns: int) -> None:
    seven, seventeen = (parcel_table(name, f"schaefer400-{n}net", n_columns) for n in (7, 17))
    assert seven.shape == (400, n_columns)
    assert np.isfinite(seven).all()
    assert np.array_equal(seven[permutation("schaefer400-7net", "schaefer400-17net").index], seventeen)
    some = roi_labels("schaefer400-7net")[10:3:-1]
    assert np.array_equal(parcel_table(name, some, 5), seven[10:3:-1, :5])
    assert parcel_table(name, "a424", 5) is None
    assert parcel_table(name, None, 5) is None
    assert parcel_table(name, "schaefer400-7net", n_columns + 1) is None


def test_subcortex_has_gradients_of_the_cortex_around_it_and_no_harmonics() -> None:
    whole = parcel_table("gradients", "tian-s3+schaefer400-17net", 30)
    assert whole.shape == (450, 30)
    low, high = whole[50:].min(axis=0), whole[50:].max(axis=0)
    assert ((whole[:50] >= low) & (whole[:50] <= high)).all()
    assert parcel_table("harmonics", "tian-s3+schaefer400-17net", 30) is None
