"""Wrong orders, scales, folders and files never pass in silence: each way a user can err, through the front door."""

import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel

import brain_transformers as bt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "conversion"))

import convert_brainlm

GOLDEN = Path(__file__).resolve().parent / "golden" / "brainlm"
ORDER = [f"parcel {i}" for i in range(12)]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both architectures as a user has them: converted, with a coordinate table and fitted statistics."""
    root = tmp_path_factory.mktemp("released")
    table = root / "centres.dat"
    table.write_text("".join(f"{i + 1}\t{10 - i}\t{(i * 7) % 5}\t{i}\n" for i in range(12)))
    folders = {}
    generator = np.random.default_rng(0)
    scans = [500 + 40 * generator.standard_normal((12, 300)) for _ in range(3)]
    for name, case in (("tokens", "a_pretrain"), ("image", "b_predict_last_pixel_p16")):
        folders[name] = root / name
        arguments = ["--checkpoint", str(GOLDEN / case / "checkpoint"), "--output", str(folders[name])]
        assert convert_brainlm.main([*arguments, "--coordinates", str(table), "--n-rois", "12"]) == 0
        extractor = AutoFeatureExtractor.from_pretrained(folders[name])
        values = {**extractor.to_dict(), "roi_order": ORDER}
        known = {key: value for key, value in values.items() if key not in ("feature_extractor_type", "auto_map")}
        extractor = bt.ROISeriesFeatureExtractor(**known)
        extractor.fit(scans, roi_order=ORDER).save_pretrained(folders[name])
    return folders


@pytest.fixture
def scan() -> np.ndarray:
    return 500 + 40 * np.random.default_rng(1).standard_normal((12, 300))


def features(folder: Path, scan: np.ndarray, **call) -> torch.Tensor:
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    inputs = extractor(scan, **{"t_r": 0.72, "roi_order": ORDER, "return_tensors": "pt", **call})
    with torch.no_grad():
        return model(**inputs).pooler_output


@pytest.mark.parametrize("name", ["tokens", "image"])
def test_the_right_way_gives_no_warning(name: str, released, scan) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.isfinite(features(released[name], scan)).all()


@pytest.mark.parametrize("name", ["tokens", "image"])
def test_any_known_order_of_rows_gives_the_same_features(name: str, released, scan) -> None:
    shuffled = np.random.default_rng(2).permutation(12)
    expected = features(released[name], scan)
    actual = features(released[name], scan[shuffled], roi_order=[ORDER[i] for i in shuffled])
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["tokens", "image"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roi_order": None}, "roi_order"),
        ({"roi_order": [f"other {i}" for i in range(12)]}, "parcel|label"),
        ({"roi_order": "schaefer400-7net"}, "400"),
    ],
)
def test_an_order_that_cannot_be_matched_is_refused(name: str, change: dict, message: str, released, scan) -> None:
    with pytest.raises(ValueError, match=message):
        features(released[name], scan, **change)


@pytest.mark.parametrize("name", ["tokens", "image"])
def test_wrong_parcel_counts_are_refused(name: str, released, scan) -> None:
    with pytest.raises(ValueError, match="12"):
        features(released[name], scan[:-1])
    with pytest.raises(ValueError, match=r"[Tt]ranspose"):
        features(released[name], scan.T)
    with pytest.raises(ValueError, match="12"):
        AutoModel.from_pretrained(released[name])(torch.zeros(1, 14, 40))


@pytest.mark.parametrize("name", ["tokens", "image"])
def test_three_timepoints_are_refused(name: str, released, scan) -> None:
    with pytest.raises(ValueError, match="3"):
        features(released[name], scan[:, :3])


def test_rows_that_claim_to_be_sorted_are_checked(released, scan) -> None:
    model = AutoModel.from_pretrained(released["image"]).eval()
    unsorted = torch.tensor([[[0.0, float((i * 7) % 5), 0.0] for i in range(12)]])
    with pytest.raises(ValueError, match="sorted by Y"):
        model(torch.zeros(1, 12, 200), coordinates=unsorted)


@pytest.mark.parametrize("name", ["tokens", "image"])
def test_a_series_in_another_scale_brings_a_warning(name: str, released, scan) -> None:
    already_scaled = (scan - scan.mean(1, keepdims=True)) / 4000
    with pytest.warns(UserWarning, match=r"std|scale"):
        features(released[name], already_scaled)


def test_unfitted_statistics_are_refused(tmp_path: Path, scan) -> None:
    convert_brainlm.main(["--checkpoint", str(GOLDEN / "a_pretrain" / "checkpoint"), "--output", str(tmp_path / "m")])
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="fit"):
        extractor(scan, t_r=0.72, return_tensors="pt")


def test_folders_of_the_other_architecture_are_refused(released) -> None:
    with pytest.raises(ValueError, match="brainlm_vit_mae"):
        bt.BrainLMModel.from_pretrained(released["image"])
    with pytest.raises(ValueError, match="brainlm_mae"):
        bt.BrainLMViTForMaskedModeling.from_pretrained(released["tokens"])


def test_truncated_weights_are_refused(released, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(released["tokens"], folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match="truncated or corrupt"):
        AutoModel.from_pretrained(folder)
