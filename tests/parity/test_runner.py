"""The runner itself: for every kind it must fail on each number that is wrong, and on what it does not know."""

import contextlib
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))

import kinds_brain_semantoks
from golden_case import GoldenCase, find_cases
from test_golden import KINDS

# Expected numbers in JSON files: file, place in it, and names below that place which are settings.
FACTS: dict[tuple[str, str], list[tuple[str, str, set[str]]]] = {
    ("brainlm", "masking"): [("facts.json", "", set())],
    ("brainlm", "metrics"): [("metrics.json", "", set())],
    ("brainlm", "lr_schedule"): [("facts.json", "step_lr", set())],
    ("brainlm", "data_pipeline"): [("facts.json", "", {"toolkit.kept_parcels"})],
    ("brain_harmony", "stage1_harmonizer"): [("config.json", "", {"n_rois"})],
    ("brain_harmony", "stage2_finetune"): [
        # What only the stage before has, and what acts in training alone.
        (
            "config.json",
            "",
            {"n_rois", "decoder_embed_dim", "decoder_depth", "decoder_num_heads", "norm_pix_loss", "drop_path_rate"},
        )
    ],
    ("brain_harmony", "lr_schedules"): [("config.json", "", set())],
    ("brain_harmony", "random_masking_stats"): [("config.json", "", {"draws"})],
    ("brain_harmony", "base_state_dict_shapes"): [("shapes.json", "", set())],
    ("brain_harmony", "t1_encoder"): [("config.json", "", {"num_heads", "extra_keys_to_ignore"})],
    ("brain_harmony", "t1_normalise"): [("config.json", "", {"pad", "label"})],
    ("brain_jepa", "masks"): [
        ("config.json", "exact_draws", {"manual_seed", "step_counter_value_used", "batch"}),
        ("config.json", "statistics", {"calls"}),
    ],
    ("brain_jepa", "downstream"): [
        ("config.json", "fine_tune_param_groups", set()),
        ("config.json", "lr_schedule.at", set()),
    ],
    ("brain_jepa", "train_run"): [
        ("config.json", "trajectory", {"iterations_per_epoch", "files_written", "checkpoint_epoch_field"})
    ],
    ("brain_mt", "recipe"): [
        ("recipe.json", "", {"scheduler_state_keys"}),
        ("metrics.json", "", {"outputs_f32", "targets_f32"}),
    ],
    ("brain_semantoks", "masks"): [("mask_stats.json", "", {"function", "C", "T", "range", "n_draws"})],
    ("brain_semantoks", "schedules"): [
        (
            "schedules.json",
            "",
            # What the schedules are made of; each shows in the values at the steps.
            {"base_lr", "num_warmup_steps", "num_training_steps", "wd_start", "wd_end", "base_teacher_momentum"}
            | {"network_loss_weight", "netloss_weight_decay_steps", "netloss_delay_steps", "netloss_decay_schedule"}
            | {"peak_lr_rule", "scaled_lr", "epochs", "warmup_epochs", "min_lr", "scheduler_type", "use_grid_search"},
        )
    ],
    ("brain_semantoks", "downstream"): [
        (
            "info.json",
            "",
            {"feature_type", "num_classes", "layerwise_decay_rate", "lr", "momentum", "epochs", "batch"}
            | {"crops_per_subject"},
        )
    ],
    ("brain_semantoks", "pretrain"): [("trajectory.json", "", {"step", "masked"})],
    ("brain_semantoks", "data_pipeline"): [
        ("info.json", "", {"modality_config", "dataset_args", "augment_level", "draws_in_order", "numpy_legacy_seed"})
    ],
}
# Facts that are changed one by one; a run of some kinds takes seconds, so of those only a few, chosen by a fixed seed.
MOST_FACTS = {
    "base_state_dict_shapes": 4,
    "stage2_finetune": 15,
    "masking": 30,
    "train_run": 3,
    "pretrain": 3,
    "masks": 4,
    "data_pipeline": 6,
    "downstream": 6,
}


def one_case_of_each_kind() -> list[Any]:
    """The smallest case of each kind: the project's own, and all others where they lie beside it."""
    here = Path(__file__).resolve()
    roots = [here.parents[1] / "golden", here.parents[3] / "shared" / "golden"]
    chosen: dict[tuple[str, str], tuple[int, Path]] = {}
    for root in roots:
        for folder in find_cases(root) if root.is_dir() else []:
            meta = json.loads((folder / "case.json").read_text(encoding="utf-8"))
            key = (meta["family"], meta["kind"])
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if meta["kind"] in KINDS.get(meta["family"], {}) and (key not in chosen or size < chosen[key][0]):
                chosen[key] = (size, folder)
    return [pytest.param(folder, id="-".join(key)) for key, (_, folder) in sorted(chosen.items())]


EACH_KIND = pytest.mark.parametrize("original", one_case_of_each_kind())


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of masks from fewer draws: tolerances follow their number."""
    monkeypatch.setattr(kinds_brain_semantoks, "_OUR_DRAWS", 4000)


def copied(original: Path, folder: Path) -> Path:
    shutil.copytree(original, folder)
    beside = original.parent / "network_mapping.npz"  # the authors' map, once for all cases
    if beside.is_file():
        shutil.copy(beside, folder.parent / beside.name)
    return folder


def run(folder: Path, work: Path) -> GoldenCase:
    """The case after its computation; raises what the runner would raise, failures included."""
    work.mkdir(parents=True)
    case = GoldenCase(folder)
    KINDS[case.meta["family"]][case.kind](case, work)
    return case


def found_in(folder: Path, work: Path) -> str:
    """Everything that the runner says against a case; empty if it passes."""
    work.mkdir(parents=True)
    case = GoldenCase(folder)
    said = []
    try:
        KINDS[case.meta["family"]][case.kind](case, work)
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
    try:
        case.finish()
    except AssertionError as error:
        said.append(str(error))
    shutil.rmtree(work)
    return "\n".join(said)


def wrong(value: torch.Tensor) -> torch.Tensor:
    """Another value of the same kind, further away than any tolerance."""
    if value.dtype == torch.bool:
        return ~value
    if not value.is_floating_point():
        return value + 1
    scale = value.double().abs().nan_to_num().max() if value.numel() else torch.tensor(1.0)
    return value + (0.3 * scale + 0.1).to(value.dtype)


def change(folder: Path, **tensors: torch.Tensor) -> None:
    path = folder / "tensors.safetensors"
    save_file({**load_file(path), **tensors}, path)


@EACH_KIND
def test_every_expected_tensor_counts(original: Path, tmp_path: Path) -> None:
    """All are changed at once; those that nobody complained about then are changed one by one."""
    folder = copied(original, tmp_path / "case")
    case = run(folder, tmp_path / "untouched")
    case.finish()
    assert case.n_checks
    if not case.compared:
        return  # facts only, see the next test
    change(folder, **{name: wrong(case.tensors[name]) for name in case.compared})
    said = found_in(folder, tmp_path / "all")
    passed = [name for name in sorted(case.compared) if f"{name}: " not in said]
    for number, name in enumerate(passed):
        single = copied(original, tmp_path / f"{number}" / "case")
        change(single, **{name: wrong(case.tensors[name])})
        assert found_in(single, tmp_path / f"work-{number}"), f"{name} may be anything"


def leaves(value: Any, settings: set[str]) -> Iterator[tuple[Any, Any]]:
    """Container and key of every number and word below `value` that is expected; of a list, the first and the last."""
    if isinstance(value, dict):
        for key in value:
            if key not in settings:
                yield from leaves_of(value, key, settings)
    elif isinstance(value, list):
        for key in sorted({0, len(value) - 1}) if value else ():
            yield from leaves_of(value, key, settings)


def leaves_of(container: Any, key: Any, settings: set[str]) -> Iterator[tuple[Any, Any]]:
    value = container[key]
    if isinstance(value, (dict, list)):
        yield from leaves(value, settings)
    elif value is not None:
        yield container, key


def wrong_fact(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value + 0.3 * abs(value) + 0.1 if isinstance(value, float) else f"{value}x"


FACT_KINDS = [each for each in one_case_of_each_kind() if tuple(each.id.split("-", 1)) in FACTS]


@pytest.mark.parametrize("original", FACT_KINDS)
def test_every_expected_fact_counts(original: Path, tmp_path: Path) -> None:
    meta = json.loads((original / "case.json").read_text(encoding="utf-8"))
    changes = []
    for name, place, settings in FACTS[meta["family"], meta["kind"]]:
        content = json.loads((original / name).read_text(encoding="utf-8"))
        part: Any = content
        for step in filter(None, place.split(".")):
            part = part.get(step, {}) if isinstance(part, dict) else {}
        for container, key in leaves(part, settings):
            value = container[key]
            container[key] = wrong_fact(value)
            changes.append((name, f"{key}: {value!r}", json.dumps(content)))
            container[key] = value
    most = MOST_FACTS.get(meta["kind"], 60)
    for number, (name, what, text) in enumerate(random.Random(0).sample(changes, min(most, len(changes)))):
        folder = copied(original, tmp_path / f"{number}" / "case")
        (folder / name).write_text(text)
        assert found_in(folder, tmp_path / f"work-{number}"), f"{name}: {what} may be anything"
        shutil.rmtree(folder.parent)


@EACH_KIND
def test_what_nobody_knows_fails_and_is_named(original: Path, tmp_path: Path) -> None:
    """Also where its name looks like an input's."""
    folder = copied(original, tmp_path / "case")
    invented = ("invented", "invented.x", "x_invented", "invented.mask", "mask_what_invented")
    path = folder / "tensors.safetensors"
    if not path.is_file():
        pytest.skip("a case without tensors")
    change(folder, **{name: torch.zeros(3) for name in invented})
    said = found_in(folder, tmp_path / "work")
    assert not [name for name in invented if name not in said.split("unknown outputs")[-1]], said


@pytest.fixture
def small_case(repository: Path, tmp_path: Path) -> Path:
    return copied(repository / "tests" / "golden" / "brainlm" / "b_finetune", tmp_path / "case")


def test_other_weights_fail(small_case: Path, tmp_path: Path) -> None:
    path = small_case / "checkpoint" / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    weights["vit.layernorm.bias"] = weights["vit.layernorm.bias"] + 0.01
    torch.save(weights, path)
    assert "largest error" in found_in(small_case, tmp_path / "work")


def test_tolerances_come_from_the_case(small_case: Path, tmp_path: Path) -> None:
    logits = load_file(small_case / "tensors.safetensors")["mae.logits"]
    change(small_case, **{"mae.logits": logits + 1e-3})
    assert "mae.logits: largest error 0.001" in found_in(small_case, tmp_path / "strict")
    meta = json.loads((small_case / "case.json").read_text())
    (small_case / "case.json").write_text(json.dumps({**meta, "atol": 1e-2}))
    assert not found_in(small_case, tmp_path / "loose")


def test_a_fraction_is_not_an_integer(small_case: Path) -> None:
    case = GoldenCase(small_case)
    case.check("count", 1.4, 1)
    case.check("mask", torch.tensor([0.9, 0.0]), torch.tensor([True, False]))
    case.check("same", torch.tensor([1.0, 0.0]), torch.tensor([True, False]))
    with contextlib.suppress(AssertionError):
        case.finish()
    assert [failure.split(":")[0] for failure in case.failures if "entries" in failure] == ["count", "mask"]
