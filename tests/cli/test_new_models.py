"""New models that fit a dataset."""

import numpy as np
import pytest

pytest.importorskip("datasets")

import brain_transformers as bt
from brain_transformers.cli.new_models import make_config


@pytest.mark.parametrize(("name", "order"), [("brainlm-tiny", "aal2-94"), ("brainlm-vit-tiny", "aal2-94@y")])
def test_a_tiny_configuration_takes_a_known_order_and_so_its_centres(name, order) -> None:
    rng = np.random.default_rng(0)
    rows = bt.dataset_from_arrays([rng.normal(size=(94, 60)).astype(np.float32)] * 2, roi_order="aal2-94", t_r=2.0)
    config = make_config(name, [], rows)
    assert (config.n_rois, config.roi_order, config.t_r) == (94, order, 2.0)
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config).fit(rows)
    assert extractor(rows[0])["coordinates"].shape == (1, 94, 3)
    labels = [f"parcel {number}" for number in range(94)]
    unnamed = bt.dataset_from_arrays([rng.normal(size=(94, 60)).astype(np.float32)], roi_order=labels, t_r=2.0)
    assert make_config(name, [], unnamed).roi_order is None
