"""Parcel orders: rows move by label, and only by label."""

import json

import numpy as np
import pytest

from brain_transformers.atlases.roi_orders import (
    ROI_ORDERS,
    permutation,
    resolve_roi_order,
    roi_coordinates,
    roi_labels,
    roi_order_text,
    stable_y_order,
)

SIZES = {
    "schaefer400-7net": 400,
    "schaefer400-17net": 400,
    "tian-s3+schaefer400-17net": 450,
    "schaefer400-7net+tian-s3+buckner7": 457,
    "a424": 424,
    "aal2-94": 94,
}


@pytest.mark.parametrize("order", ROI_ORDERS)
def test_named_orders_have_distinct_labels(order):
    labels = roi_labels(order)
    assert len(labels) == len(set(labels)) == SIZES[order]


def test_schaefer_editions_are_inverse_permutations_with_parcels_in_place():
    to_seven = permutation("schaefer400-17net", "schaefer400-7net")
    to_seventeen = permutation("schaefer400-7net", "schaefer400-17net")
    assert not to_seven.missing
    np.testing.assert_array_equal(to_seven.index[to_seventeen.index], np.arange(400))
    assert (to_seven.index != np.arange(400)).sum() > 300
    # A parcel keeps its place in the brain whichever edition names it.
    np.testing.assert_allclose(
        roi_coordinates("schaefer400-17net")[to_seven.index], roi_coordinates("schaefer400-7net")
    )
    # The first visual parcels of the 17-network edition lie in other rows of the 7-network one.
    assert roi_labels("schaefer400-17net")[0] == "17Networks_LH_VisCent_ExStr_1"
    assert list(to_seventeen.index[:3]) == [2, 4, 5]


def test_missing_parts_are_reported():
    moved = permutation("tian-s3+schaefer400-17net", "schaefer400-7net+tian-s3+buckner7")
    assert moved.missing == tuple(f"buckner7-{number}" for number in range(1, 8))
    assert (moved.index[-7:] == -1).all()
    assert list(moved.index[400:450]) == list(range(50))
    assert not permutation("schaefer400-7net+tian-s3+buckner7", "schaefer400-7net").missing


def test_list_of_labels_matches_a_named_order():
    labels = list(roi_labels("aal2-94"))
    moved = permutation(labels[::-1], "aal2-94")
    np.testing.assert_array_equal(moved.index, np.arange(94)[::-1])
    # The same list as text, as a table column stores it.
    assert resolve_roi_order(roi_order_text(labels)).labels == tuple(labels)
    assert json.loads(roi_order_text(labels)) == labels


def test_orders_without_common_labels_are_refused():
    with pytest.raises(ValueError, match="no label in common"):
        permutation("aal2-94", "a424")
    with pytest.raises(ValueError, match="Known orders"):
        permutation("my-atlas", "a424")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["a", "a"], "more than once"),
        ("", "empty"),
        ("schaefer400-7net+nothing", "not among the known"),
        ("schaefer400-7net+schaefer400-17net", "twice"),
        ("tian_s3+schaefer400-17net", r"Did you mean 'tian-s3'\?"),
        (["a"] * 100_000, "more than once"),
        ([], "list of label strings"),
        (["a", None], "list of label strings"),
        (["a", 1], "list of label strings"),
        (["a", b"\xff"], "list of label strings"),
        ([["a"], ["b"]], "list of label strings"),
        ({"a": 1}, "list of label strings"),
        ({"a", "b"}, "list of label strings"),
        (7, "list of label strings"),
        (None, "list of label strings"),
        ("[", "list of label strings"),
        ('["a", 1]', "list of label strings"),
        ("[" * 100_000, "list of label strings"),
        (np.zeros((2, 2)), "list of label strings"),
    ],
)
def test_broken_orders_are_refused(order, message):
    with pytest.raises(ValueError, match=message):
        resolve_roi_order(order)


def test_y_sort_is_stable():
    # 424 rows on 7 distinct Y: numpy's default sort reorders such ties.
    y = np.random.default_rng(0).integers(0, 7, 424)
    coordinates = np.stack([np.zeros(424), y, np.zeros(424)], axis=1)
    order = stable_y_order(coordinates)
    assert (np.diff(y[order]) >= 0).all()
    for value in range(7):
        assert (np.diff(order[y[order] == value]) > 0).all()


def test_sorted_order_has_sorted_coordinates_and_labels():
    coordinates = roi_coordinates("aal2-94@y")
    assert (np.diff(coordinates[:, 1]) >= 0).all()
    labels, sorted_labels = roi_labels("aal2-94"), roi_labels("aal2-94@y")
    centres = dict(zip(labels, roi_coordinates("aal2-94")))
    np.testing.assert_array_equal(coordinates, [centres[label] for label in sorted_labels])
    with pytest.raises(ValueError, match="not part of this package"):
        roi_labels("a424@y")


def test_labels_as_files_hold_them_are_labels():
    labels = roi_labels("aal2-94")
    for given in (
        np.array(labels),
        np.array(labels, dtype=object),
        np.array([label.encode() for label in labels]),
        np.array([label.encode() for label in labels], dtype=object),
        [np.str_(label) for label in labels],
    ):
        assert resolve_roi_order(given).labels == labels
        assert (permutation(given, "aal2-94").index == np.arange(94)).all()
        assert resolve_roi_order(roi_order_text(given)).labels == labels
    assert resolve_roi_order(b"a424").known


def test_a_misspelt_order_is_asked_about():
    with pytest.raises(ValueError, match=r"Did you mean 'schaefer400-17net'\?"):
        permutation("schaefer400_17nets", "schaefer400-7net")
    with pytest.raises(ValueError, match=r"not known\. Known orders"):
        permutation("gordon333", "schaefer400-7net")
