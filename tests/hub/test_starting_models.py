"""New models that fit a dataset."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

import datasets
from huggingface_hub.dataclasses import strict
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers import families
from brain_transformers.atlases.parcel_tables import parcel_table
from brain_transformers.data.row_randomness import SeededDraws
from brain_transformers.models.configuration_base import BrainConfig, ScanFacts, Table
from brain_transformers.models.family import Family, NamedModel
from brain_transformers.models.modeling_base import BrainPreTrainedModel
from brain_transformers.processing.base import CheckedScan, ScanProcessor


def scans(n_rois: int, roi_order: Any = None, t_r: float | None = 2.0, n_timepoints: int = 60) -> Any:
    rng = np.random.default_rng(0)
    signals = [rng.normal(size=(n_rois, n_timepoints)).astype(np.float32) for _ in range(4)]
    return bt.dataset_from_arrays(signals, roi_order=roi_order, t_r=t_r)


def labels(n_rois: int) -> list[str]:
    return [f"parcel {number}" for number in range(n_rois)]


@pytest.mark.parametrize(("name", "order"), [("brainlm-tiny", "aal2-94"), ("brainlm-vit-tiny", "aal2-94@y")])
def test_a_tiny_configuration_takes_a_known_order_and_so_its_centres(name, order, capsys) -> None:
    rows = scans(94, "aal2-94")
    model, extractor = bt.new_model(name, rows)
    assert (model.config.n_rois, model.config.roi_order, model.config.t_r) == (94, order, 2.0)
    assert extractor.is_fitted
    batch = extractor(rows[0], return_tensors="pt")
    assert batch["coordinates"].shape == (1, 94, 3)
    assert torch.isfinite(model(**batch).loss)
    said = capsys.readouterr().out
    assert f"roi_order: {order}, as in the dataset" in said
    assert "fitted on 4 training scans" in said
    unnamed = scans(94, labels(94))
    if name == "brainlm-tiny":
        with pytest.raises(ValueError, match=r"needs the table coordinates .* Pass --coordinates FILE"):
            bt.new_model(name, unnamed)
        model, own = bt.new_model(name, unnamed, tables={"coordinates": batch["coordinates"][0]})
        assert model.config.roi_order == labels(94)  # or rows in any other order would pass as these
        values = unnamed[0]["signals"].reshape(94, -1)
        turned = own(values[::-1], roi_order=labels(94)[::-1], t_r=2.0)
        assert np.array_equal(turned["signals"], own(values, roi_order=labels(94), t_r=2.0)["signals"])
        assert torch.equal(model.brainlm.coordinates, batch["coordinates"][0])
        assert model.tables["coordinates"].source == "an array"
        with pytest.raises(ValueError, match="within 250 mm"):
            bt.new_model(name, unnamed, tables={"coordinates": 1000 * batch["coordinates"][0]})
    else:
        with pytest.raises(ValueError, match="sorted by Y"):
            bt.new_model(name, unnamed, roi_order=labels(94), t_r=None)


def test_gradients_are_ours_or_those_of_the_scans_or_given(tmp_path, capsys) -> None:
    model, _ = bt.new_model("brain-jepa-tiny", datasets.DatasetDict({"train": scans(50, "tian-s3", t_r=0.72)}))
    assert model.config.t_r == 2.2143  # every third frame of these scans
    assert np.array_equal(model.context_encoder.gradients.numpy(), parcel_table("gradients", "tian-s3", 6))
    assert "brought to 2.2143 s" in capsys.readouterr().out

    unknown = scans(12, labels(12), t_r=1.5)
    model, _ = bt.new_model("brain-jepa-tiny", unknown, auto_class=AutoModel)
    assert model.config.t_r == 1.5  # no whole step between them
    assert model.config.gradient_source == "diffusion map of the connectivity of 4 training scans"
    table = np.random.default_rng(1).normal(size=(12, 8))
    np.save(tmp_path / "mine.npy", table)
    model, _ = bt.new_model("brain-jepa-tiny", unknown, tables={"gradients": tmp_path / "mine.npy"})
    for body in (model.brain_jepa, model.context_encoder):
        assert np.allclose(body.gradients.numpy(), table[:, :6])
    assert model.tables["gradients"].source == "mine.npy"
    with pytest.raises(ValueError, match=r"expected 12 rows .* at least 6 columns, got shape \(12, 5\)"):
        bt.new_model("brain-jepa-tiny", unknown, tables={"gradients": table[:, :5]})
    with pytest.raises(ValueError, match=r"Brain-JEPA.*; brain-jepa-tiny does not use it as it is configured"):
        bt.new_model("brain-jepa-tiny", unknown, position_type="index", tables={"gradients": table})
    with pytest.raises(ValueError, match="gradient_source is set with the table"):
        bt.new_model("brain-jepa-tiny", unknown, gradient_source="mine")


def test_networks_follow_from_names_or_are_given() -> None:
    tian = scans(50, "tian-s3", t_r=0.72)
    model, _ = bt.new_model("brain-semantoks-tiny", tian, roi_order="tian-s3", mask_kind="temporal")
    assert model.config.networks == [0] * 50
    assert model.tables["networks"].source == "the names of the parcels"
    assert model.config.t_r == 2.0

    unknown = scans(12, labels(12), t_r=3.0)
    with pytest.raises(ValueError, match="network of each of the 12 parcels"):
        bt.new_model("brain-semantoks-tiny", unknown)
    words = ["visual", "motor", "visual", "limbic"] * 3
    with pytest.raises(ValueError, match="mask_rule=nominal"):
        bt.new_model("brain-semantoks-tiny", unknown, tables={"networks": words[:2] * 6})
    model, _ = bt.new_model(
        "brain-semantoks-tiny", unknown, tables={"networks": words}, mask_rule="nominal", hidden_size=32
    )
    assert (model.config.networks, model.config.network_names) == ([0, 1, 0, 2] * 3, ["visual", "motor", "limbic"])
    assert model.config.t_r == 3.0
    with pytest.raises(ValueError, match="belongs to the configuration"):
        model.set_table("networks", np.zeros(12), "mine")
    given, _ = bt.new_model("brain-semantoks-tiny", unknown, networks=[0, 1, 2, 3] * 3, mask_rule="nominal")
    assert given.config.n_networks == 4
    # What a configuration says of its own parcels holds for as many others.
    own, _ = bt.new_model("brain-semantoks-tiny", scans(20, labels(20)))
    assert own.config.networks == bt.load_config("brain-semantoks-tiny").networks


def test_a_classifier_takes_the_fields_of_its_head_and_a_folder_of_rows(tmp_path) -> None:
    datasets.DatasetDict({"train": scans(12, labels(12), t_r=None)}).save_to_disk(str(tmp_path / "dataset"))
    model, extractor = bt.new_model(
        "brain-jepa-tiny",
        tmp_path / "dataset",
        auto_class=AutoModelForSequenceClassification,
        num_labels=3,
        position_type="index",
    )
    assert model.config.t_r is None
    assert model.config.num_labels == 3
    assert extractor.n_rois == 12
    with pytest.raises(ValueError, match=r"no model has a table 'centers'; .* It has none"):
        bt.new_model(
            "brain-jepa-tiny", scans(12, labels(12)), position_type="index", tables={"centers": np.zeros((12, 3))}
        )
    with pytest.raises(ValueError, match="set 'train'"):
        bt.new_model("brain-jepa-tiny", datasets.DatasetDict({"test": scans(12, labels(12))}))
    for other in (
        [{"signals": np.zeros((12, 60))}],
        None,
        np.zeros((2, 12, 60)),
        scans(12, labels(12)).remove_columns("t_r"),
    ):
        with pytest.raises(ValueError, match=r"Expected rows of scans.*t_r"):
            bt.new_model("brain-jepa-tiny", other)
    with pytest.raises(ValueError, match="dataset without rows"):
        bt.new_model("brain-jepa-tiny", scans(12, labels(12)).select([]))
    with pytest.raises(ValueError, match="Did you mean hidden_size"):
        bt.new_model("brain-jepa-tiny", scans(12, labels(12)), hiden_size=32)


# --- a family and a modality that the package does not have ---


class ProfileProcessor(ScanProcessor):
    """Rows with a 1-D `profile` become `profiles` less the level of the training set."""

    model_input_names = ["profiles"]
    reads = ("profile",)
    tells = ("unit",)
    scan_ndim = 1
    takes_from_config = ("length",)

    def __init__(self, length: int = 3, level: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length, self.level = length, level

    def check(self, scan: Any, name: str, **known: Any) -> CheckedScan:
        values = np.asarray(scan, dtype=np.float32)
        if len(values) != self.length:
            raise ValueError(f"Expected {name} of {self.length} values, got {len(values)}.")
        return CheckedScan(name, values - np.float32(self.level or 0))

    def cut(self, scan: CheckedScan, starts: Any) -> dict[str, np.ndarray]:
        return {"profiles": np.stack([scan.values] * len(starts))}

    def measure(self, scan: Any, name: str, **known: Any) -> float:
        return float(np.mean(scan))

    def settle(self, measures: list[float]) -> None:
        self.level = float(np.mean(measures))

    @property
    def is_fitted(self) -> bool:
        return self.level is not None

    @classmethod
    def facts(cls, rows: Any, chosen: Any, what: str) -> ScanFacts:
        return ProfileFacts(length=len(rows[0]["profile"]))

    def make_table(self, name: str, shape: Any, rows: Any, what: str) -> Any:
        return np.mean([row["profile"] for row in rows], axis=0, keepdims=True), f"mean of {len(rows)} {what}"


@dataclass(frozen=True)
class ProfileFacts(ScanFacts):
    length: int = 0


class ProfileFamily(Family):
    def load_class(self, kind: str) -> Any:
        return {"Config": ProfileConfig, "ForMaskedModeling": ProfileForMaskedModeling}[kind]

    def load_processor(self) -> Any:
        return ProfileProcessor


@strict
class ProfileConfig(BrainConfig):
    family: ClassVar[Family] = ProfileFamily(
        "profile", "Profile", "Profile", "made_up_profile", "none", models={"profile-tiny": NamedModel({"length": 7})}
    )
    model_type = "made_up_profile"
    table_sources = {"means": "means_source"}
    hidden_act: str = "gelu"
    length: int = 3
    means_source: str | None = None

    @property
    def tables(self) -> dict[str, Table]:
        return {"means": Table("mean", (1, self.length), self.means_source)}

    def fitted_to(self, facts: Any, chosen: Any) -> dict[str, Any]:
        return {"length": facts.length, **chosen}


class ProfileForMaskedModeling(BrainPreTrainedModel):
    config_class = ProfileConfig
    base_model_prefix = "profile"
    main_input_name = "profiles"

    def __init__(self, config: ProfileConfig) -> None:
        super().__init__(config)
        self.register_buffer("means", torch.zeros(1, config.length))
        self.output = torch.nn.Linear(config.length, 1)
        self.post_init()


def test_a_family_of_another_modality_needs_nothing_of_this_package_changed(monkeypatch, capsys) -> None:
    family = ProfileConfig.family
    monkeypatch.setitem(families.MODELS, "profile-tiny", family.models["profile-tiny"])
    monkeypatch.setitem(families._FAMILY_OF, "profile-tiny", family)
    AutoModelForPreTraining.register(ProfileConfig, ProfileForMaskedModeling, exist_ok=True)
    rows = datasets.Dataset.from_list([{"profile": [1.0, 2.0, 3.0 + n], "unit": "mm"} for n in range(4)])
    model, processor = bt.new_model("profile-tiny", rows)
    assert (model.config.length, processor.length) == (3, 3)
    assert processor.level == pytest.approx(2.5)
    assert model.means.tolist() == [[1.0, 2.0, 4.5]]
    said = capsys.readouterr().out
    assert "length: 3, as in the dataset (profile-tiny has 7)" in said
    assert "scale: fitted" in said
    assert "means: mean of 4 training scans" in said
    processor.try_rows(rows, "evaluation")
    with pytest.raises(ValueError, match=r"Row 0 of the evaluation set does not fit: Expected .* of 3 values, got 2"):
        processor.try_rows(datasets.Dataset.from_list([{"profile": [1.0, 2.0], "unit": "mm"}]), "evaluation")
    with pytest.raises(ValueError, match="without the columns unit"):
        bt.new_model("profile-tiny", rows.remove_columns("unit"))


@pytest.mark.parametrize("name", ["brain-jepa-tiny", "brain-semantoks-tiny"])
def test_drawn_masks_follow_from_their_seed_and_fit_the_model(name) -> None:
    model, _ = bt.new_model(name, scans(20, labels(20)), n_timepoints=60)
    options = {"masking_frequency": 1.0} if name == "brain-semantoks-tiny" else {}

    def draw(seed: int) -> dict[str, torch.Tensor]:
        return model.draw_masks(model.config, SeededDraws.of_one_batch(3, seed), **options)

    masks, again, other = (draw(seed) for seed in (5, 5, 6))
    assert masks
    assert all(torch.equal(masks[key], again[key]) for key in masks)
    assert any(masks[key].shape != other[key].shape or not torch.equal(masks[key], other[key]) for key in masks)
    shape = (3, 2, 20, 60) if name == "brain-semantoks-tiny" else (3, 20, 60)
    assert torch.isfinite(model(torch.randn(shape), **masks).loss)
    assert bt.new_model("brain-jepa-tiny", scans(20, labels(20)), auto_class=AutoModel)[0].draw_masks(None, None) == {}


def test_a_dataset_of_another_kind_is_named() -> None:
    rows = bt.dataset_from_arrays([np.random.default_rng(0).normal(size=(50, 60))] * 2, roi_order="tian-s3", t_r=2.0)
    with pytest.raises(ValueError, match="got one of series of ROIs"):
        bt.new_model("brain-mt-tiny", rows)
