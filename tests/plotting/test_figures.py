"""Figures show what they were given; none stays open in pyplot."""

import itertools
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import colormaps
from matplotlib.figure import Figure

from brain_transformers.evaluation import identify
from brain_transformers.plotting import (
    figure_to_png,
    plot_carpet,
    plot_embedding_map,
    plot_identification,
    plot_loss_curve,
    plot_parcel_map,
    plot_reconstruction,
    plot_reconstruction_scores,
)


@pytest.fixture
def window() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(5, 40))
    mask = np.zeros((5, 40))
    mask[1, 10:20] = mask[1, 30:40] = mask[3, 0:10] = 1
    return target, target + 0.1, mask


def test_traces_shade_hidden_spans_in_seconds_and_draw_predictions_only_there(window) -> None:
    target, prediction, mask = window
    figure = plot_reconstruction(target, prediction, mask, rois=[1, 3], t_r=2.0, roi_labels=list("abcde"))
    assert isinstance(figure, Figure)
    first, second = figure.axes
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in first.patches]
    assert spans == [(19.0, 39.0), (59.0, 79.0)]
    assert len(second.patches) == 1
    lines = {line.get_label(): line for line in first.lines}
    np.testing.assert_array_equal(lines["measured"].get_ydata(), target[1])
    drawn = lines["reconstructed"].get_ydata()
    np.testing.assert_array_equal(np.isfinite(drawn), mask[1] == 1)
    np.testing.assert_array_equal(drawn[mask[1] == 1], prediction[1][mask[1] == 1])
    assert second.get_xlabel() == "time (s)"
    assert first.get_title(loc="left").startswith("b ")


def test_default_rows_have_something_hidden(window) -> None:
    target, prediction, mask = window
    figure = plot_reconstruction(target, prediction, mask)
    assert [axis.get_title(loc="left").split("   ")[0] for axis in figure.axes] == ["ROI 1", "ROI 3"]
    with pytest.raises(ValueError, match="one window at a time"):
        plot_reconstruction(target[None], prediction[None], mask[None])


def test_carpets_share_one_colour_scale(window) -> None:
    target, prediction, mask = window
    order = [4, 3, 2, 1, 0]
    figure = plot_carpet(target, prediction, mask, t_r=0.72, order=order, groups=[("x", 2), ("y", 3)])
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert len({image.get_clim() for image in images}) == 1
    measured, seen, filled = (np.ma.filled(image.get_array().astype(float), np.nan) for image in images)
    np.testing.assert_array_equal(measured, target[order])
    np.testing.assert_array_equal(np.isnan(seen), mask[order] == 1)
    np.testing.assert_array_equal(filled, np.where(mask == 1, prediction, target)[order])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["x", "y"]


def test_identification_frames_the_nearest_neighbour() -> None:
    people = np.eye(3) + 0.1
    figure = plot_identification({"model": identify(people, people[[1, 0, 2]], ["a", "b", "c"])})
    frames = [(patch.get_x() + 0.46, patch.get_y() + 0.46) for patch in figure.axes[0].patches]
    np.testing.assert_allclose(frames, [(1, 0), (0, 1), (2, 2)])
    assert "33%" in figure.axes[0].get_title()


def test_loss_curve_has_both_curves_and_named_baselines() -> None:
    history = [{"step": 0, "eval_loss": 9.0}] + [{"step": s, "loss": 1 / s} for s in range(1, 9)]
    history += [{"step": s, "eval_loss": 2 / s} for s in (4, 8)] + [{"step": 8, "train_runtime": 1.0}]
    figure = plot_loss_curve(history, baselines={"interpolation": 0.5, "mean": 0.4})
    axis = figure.axes[0]
    training = next(line for line in axis.lines if line.get_label() == "training")
    np.testing.assert_allclose(training.get_ydata(), 1 / np.arange(1, 9))
    heights = [line.get_ydata()[0] for line in axis.lines if len(set(np.ravel(line.get_ydata()))) == 1]
    assert {0.5, 0.4} <= set(heights)
    assert {"interpolation", "mean"} <= {text.get_text() for text in axis.texts}
    with pytest.raises(ValueError, match="no `loss`"):
        plot_loss_curve([{"step": 1}])


def test_parcel_map_shows_each_half_and_leaves_unknown_parcels_empty() -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    coordinates = np.array([[-40.0, 10, 20], [40, 10, 20], [20, -60, 40]])
    figure = plot_parcel_map(coordinates, [0.1, np.nan, 0.9], label="r")
    left, top, right = (axis for axis in figure.axes if axis.collections and axis.get_ylabel() != "r")
    unknown, known = top.collections
    np.testing.assert_array_equal(unknown.get_offsets(), [[40, 10]])
    assert unknown.get_facecolor().size == 0
    np.testing.assert_array_equal(known.get_offsets(), [[-40, 10], [20, -60]])  # the highest lies on top
    assert [len(part.get_offsets()) for part in left.collections] == [0, 1]
    assert [len(part.get_offsets()) for part in right.collections] == [1, 1]
    colors = colormaps["viridis"]([0.0, 1.0])  # the range of the values
    np.testing.assert_allclose(known.get_facecolor(), colors)
    assert not plt.get_fignums()
    assert plot_parcel_map(coordinates, [np.nan] * 3).axes
    with pytest.raises(ValueError, match="n_rois"):
        plot_parcel_map(coordinates, [1.0, 2.0])


def test_embedding_map_is_the_principal_plane() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 20))
    figure = plot_embedding_map(values, groups=list("aabbcc"), parts=["first", "second"] * 3)
    points = np.concatenate([np.asarray(c.get_offsets()) for c in figure.axes[0].collections])
    scales = np.linalg.svd(values - values.mean(0), compute_uv=False)
    np.testing.assert_allclose(np.sort(np.square(points).sum(0)), np.sort(np.square(scales[:2])))


def test_names_in_an_embedding_map_cover_nothing() -> None:
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(size=(12, 20)), 2, axis=0) + 0.3 * rng.normal(size=(24, 20))
    values[:2] += 4  # one far away drives the others together
    names = [f"sub-{100307 + number}" for number in range(12)]
    figure = plot_embedding_map(values, groups=np.repeat(names, 2).tolist(), parts=["first", "second"] * 12)
    figure_to_png(figure, dpi=100)
    axis = figure.axes[0]
    boxes = [text.get_window_extent() for text in axis.texts]
    assert [text.get_text() for text in axis.texts] == names
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
    points = axis.transData.transform(np.concatenate([c.get_offsets() for c in axis.collections]))
    assert not any(box.contains(*point) for box in boxes for point in points)


def test_scores_are_sorted_and_show_subjects() -> None:
    scores = {"good": {"r2": 0.8}, "bad": {"r2": -0.2}}
    groups = {"good": {"a": {"r2": 0.7}, "b": {"r2": 0.9}}}
    axis = plot_reconstruction_scores(scores, groups, highlight=["good"]).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["bad", "good"]
    assert any(np.array_equal(line.get_xdata(), [0.7, 0.9]) for line in axis.lines)


def test_pyplot_stays_out_and_pngs_repeat(window) -> None:
    target, prediction, mask = window
    loaded = "matplotlib.pyplot" in sys.modules
    first, second = (figure_to_png(plot_carpet(target, prediction, mask), dpi=50) for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == loaded
