"""A modality that this package has never heard of: nothing outside its own file is needed for it."""

import warnings
from dataclasses import field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, Trainer, TrainingArguments, set_seed
from transformers.utils import ModelOutput

import brain_transformers as bt
from brain_transformers.hub.model_card import trained_model_card
from brain_transformers.hub.sharing import save_model_folder
from brain_transformers.models.classification import BrainForSequenceClassification
from brain_transformers.models.configuration_base import BrainConfig
from brain_transformers.models.family import Family
from brain_transformers.models.modeling_base import BrainModelOutput, BrainPreTrainedModel
from brain_transformers.models.moving_average import MovingAverageMixin
from brain_transformers.processing.base import CheckedScan, ScanProcessor, as_array
from brain_transformers.processing.time import window_starts

SHAPE, N_FRAMES = (3, 4, 2), 6


class VolumeProcessor(ScanProcessor):
    """Rows with a 4-D `volume` (x, y, z, t) become `volumes` (n_windows, n_frames, 1, z, y, x) less a level."""

    model_input_names = ["volumes", "attention_mask"]
    reads = ("volume",)
    scan_ndim = 4
    takes_from_config = ("shape", "n_frames")

    def __init__(
        self,
        shape: Any = SHAPE,
        n_frames: int = N_FRAMES,
        window: str = "all",
        level: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shape, self.n_frames, self.window, self.level = list(shape), n_frames, window, level

    def check(self, scan: Any, name: str, **known: Any) -> CheckedScan:
        values = as_array(scan).astype(np.float32)
        if values.ndim != 4 or list(values.shape[:3]) != self.shape:
            raise ValueError(f"Expected {name} of {self.shape} voxels and frames, got {values.shape}.")
        if self.level is None:
            raise ValueError("The level is not fitted.")
        return CheckedScan(name, values - np.float32(self.level))

    def starts(self, scan: CheckedScan, **how: Any) -> list[float]:
        return window_starts(scan.values.shape[3], self.n_frames, name=scan.name, warn=self.warn_once, **how)

    def cut(self, scan: CheckedScan, starts: Any) -> dict[str, np.ndarray]:
        frames = scan.values.transpose(3, 2, 1, 0)[:, None]
        output = np.zeros((len(starts), self.n_frames, 1, *self.shape[::-1]), np.float32)
        for start, window in zip(starts, output):
            part = frames[int(start) : int(start) + self.n_frames]
            window[: len(part)] = part
        return {"volumes": output}

    def mask(self, scan: CheckedScan, starts: Any) -> np.ndarray | None:
        times = np.asarray(starts)[:, None] + np.arange(self.n_frames)
        return (times < scan.values.shape[3]).astype(np.int64)

    def measure(self, scan: Any, name: str, **known: Any) -> float:
        return float(as_array(scan).mean())

    def settle(self, measures: list[float]) -> None:
        self.level = float(np.mean(measures))

    @property
    def is_fitted(self) -> bool:
        return self.level is not None

    def refuse(self, config: Any) -> None:
        if list(config.shape) != self.shape:
            raise ValueError(f"Expected volumes of {list(config.shape)}, this extractor gives {self.shape}.")


@strict
class TinyVolumeConfig(BrainConfig):
    """No parcels, no repetition time: what the base asks for is little."""

    family: ClassVar[Family] = Family(
        "made_up", "TinyVolume", "Volumes", "made_up_volumes", "none", processor_defaults={"window": "first"}
    )
    model_type = "made_up_volumes"

    shape: list[int] = field(default_factory=lambda: list(SHAPE))
    n_frames: int = N_FRAMES
    hidden_size: int = 5
    hidden_act: str = "gelu"
    classifier_head: str = "linear"
    classifier_dropout: float = 0.0

    def describe(self) -> dict[str, str]:
        return {"encoder": "one projection"}


class TinyVolumePreTrainedModel(BrainPreTrainedModel):
    config: TinyVolumeConfig
    base_model_prefix = "made_up"
    main_input_name = "volumes"
    has_cls_token = False


class TinyVolumeModel(TinyVolumePreTrainedModel):
    def __init__(self, config: TinyVolumeConfig) -> None:
        super().__init__(config)
        self.embeddings = torch.nn.Linear(int(np.prod(config.shape)), config.hidden_size)
        self.layers = torch.nn.ModuleList()
        self.post_init()

    def forward(self, volumes: Any, attention_mask: Any = None, **kwargs: Any) -> BrainModelOutput:
        output = BrainModelOutput(last_hidden_state=self.embeddings(volumes.flatten(2)))
        return BrainModelOutput(**output, pooler_output=self.pool(output, "mean", attention_mask))


class TinyVolumeForSequenceClassification(BrainForSequenceClassification, TinyVolumePreTrainedModel):
    body_class = TinyVolumeModel


AutoFeatureExtractor.register(TinyVolumeConfig, VolumeProcessor, exist_ok=True)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    return [
        {"volume": draw.normal(50, 1, (*SHAPE, n)).astype(np.float32), "subject": f"{n:02d}", "age": float(n)}
        for n in (12, 6, 4, 18)
    ]


@pytest.fixture
def processor(rows: list[dict[str, Any]]) -> VolumeProcessor:
    return VolumeProcessor().fit(rows)


def test_what_it_says_is_enough_for_scans_rows_and_batches(processor, rows) -> None:
    assert processor.level == pytest.approx(50, abs=0.2)
    batch = processor(rows, return_windows=True, return_tensors="pt")
    assert batch["volumes"].shape == (7, N_FRAMES, 1, *SHAPE[::-1])
    assert batch["scan_index"].tolist() == [0, 0, 1, 2, 3, 3, 3]
    assert batch["window_start"].tolist() == [0, 6, 0, 0, 0, 6, 12]
    # Where one scan is padded, the others get a mask of ones.
    assert batch["attention_mask"].sum(1).tolist() == [6, 6, 6, 4, 6, 6, 6]
    one = processor(rows[0]["volume"])
    assert "attention_mask" not in one
    np.testing.assert_array_equal(one["volumes"], batch["volumes"][:2])
    columns = {"volume": [rows[0]["volume"]] * 2, "age": [1.0, 2.0]}
    assert len(processor(columns)["volumes"]) == len(processor(np.stack(columns["volume"]))["volumes"]) == 4
    assert processor.describe()["scans"] == "rows with volume"


def test_errors_name_the_scan(processor, rows) -> None:
    with pytest.raises(ValueError, match=r"Expected scan 06 of .* voxels"):
        processor([rows[0], {**rows[1], "volume": rows[1]["volume"][:2]}])
    with pytest.raises(ValueError, match="for scan 12, got one without volume"):
        processor({"subject": "12", "age": 1.0})
    broken = rows[0]["volume"].copy()
    broken[0, 0, 0, 3] = np.inf
    with pytest.raises(ValueError, match="finite numbers after scaling scan 1"):
        processor([rows[0]["volume"], broken])
    with pytest.raises(TypeError, match=r"no argument 'n_frame'.*Did you mean n_frames"):
        VolumeProcessor(n_frame=3)
    with pytest.raises(ValueError, match="at least one scan"):
        VolumeProcessor().fit([])


def test_it_is_saved_and_loaded_by_the_auto_class(processor, rows, tmp_path) -> None:
    model = TinyVolumeModel(TinyVolumeConfig())
    save_model_folder(model, tmp_path / "model", extractor=processor)
    # Remote code imports from this package, which knows no such class.
    assert not (tmp_path / "model" / "modeling_shim.py").exists()
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    assert type(loaded) is VolumeProcessor
    assert loaded.to_dict() == processor.to_dict()
    np.testing.assert_array_equal(loaded(rows)["volumes"], processor(rows)["volumes"])
    made = VolumeProcessor.from_model_config(TinyVolumeConfig(shape=[1, 1, 1], n_frames=3))
    assert (made.shape, made.n_frames, made.window) == ([1, 1, 1], 3, "first")
    assert VolumeProcessor.from_model_config(SimpleNamespace(shape=[1, 1, 1]), window="all").window == "all"


def test_it_goes_through_embed(processor, rows) -> None:
    pytest.importorskip("pandas")
    model = TinyVolumeModel(TinyVolumeConfig()).eval()
    table = bt.embed_dataset(model, rows, processor, batch_size=3, progress=False)
    assert table["subject"].tolist() == ["12", "06", "04", "18"]
    assert table["n_windows"].tolist() == [2, 1, 1, 3]
    assert "volume" not in table
    with torch.no_grad():
        expected = model(**processor(rows[2], return_tensors="pt")).pooler_output[0]
    values = table[[name for name in table if name.startswith("e0")]].to_numpy()
    np.testing.assert_allclose(values[2], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="Expected scan 1 as a row with volume, got a row with age"):
        bt.embed_dataset(model, [rows[0], {"age": 3}], processor, progress=False)
    crops = bt.crop_features(model, rows, processor, 2, pooling="mean", progress=False)
    assert crops.shape == (4, 2, model.config.hidden_size)
    with pytest.raises(ValueError, match="this extractor gives"):
        bt.embed_dataset(TinyVolumeModel(TinyVolumeConfig(shape=[3, 4, 3])), rows, processor, progress=False)
    with pytest.raises(ValueError, match=r"Pass \[scan\]"):
        bt.embed_dataset(model, rows[0], processor, progress=False)


def test_it_has_a_card_whose_example_runs(processor, rows, tmp_path) -> None:
    model = TinyVolumeModel(TinyVolumeConfig())
    text = trained_model_card("volumes", model, processor, None)
    save_model_folder(model, tmp_path / "model", extractor=processor, card=text)
    assert ModelCard(text).data.tags == ["neuroimaging", "brain-transformers", "made_up_volumes"]
    assert "| scans | rows with volume |" in text
    assert "| encoder | one projection |" in text
    AutoModel.register(TinyVolumeConfig, TinyVolumeModel, exist_ok=True)
    AutoConfig.register("made_up_volumes", TinyVolumeConfig, exist_ok=True)
    known = {"scan": rows[0]["volume"]}
    exec(text.split("```python\n")[1].split("```")[0].replace("path/or/org/name", str(tmp_path / "model")), known)
    assert known["features"].shape == (2, 5)


@pytest.mark.parametrize("whose", ["plain", "package"])
def test_it_goes_through_the_trainer(whose, processor, rows, tmp_path) -> None:
    model = TinyVolumeForSequenceClassification(TinyVolumeConfig(num_labels=1))

    def plain(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        labels = torch.tensor([row["age"] for row in rows])
        return {**processor(rows, window="first", return_tensors="pt"), "labels": labels}

    collator = plain if whose == "plain" else bt.ScanCollator(processor, "age", window="all")
    before = model.made_up.embeddings.weight.clone()
    arguments = TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=2, remove_unused_columns=False, report_to=[], use_cpu=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator, processing_class=processor)
        trainer.train()
    assert not torch.equal(model.made_up.embeddings.weight, before)
    trainer.save_model(str(tmp_path / "model"))
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path / "model")) is VolumeProcessor


class TinyVolumeForMaskedModeling(MovingAverageMixin, TinyVolumePreTrainedModel):
    """Hides frames, and reconstructs them from the others."""

    masked_by_noise = True

    def __init__(self, config: TinyVolumeConfig) -> None:
        super().__init__(config)
        self.made_up, self.trained = TinyVolumeModel(config), TinyVolumeModel(config)
        self.decoder = torch.nn.Linear(5, int(np.prod(config.shape)))
        self.post_init()

    def averages(self) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
        return [(self.made_up, self.trained)]

    @classmethod
    def n_tokens(cls, config: Any, inputs: Any = None) -> int:
        return config.n_frames

    def forward(self, volumes: Any, noise: Any, attention_mask: Any = None, return_loss: bool = True) -> ModelOutput:
        targets = volumes.flatten(2)
        mask = (noise > 0.5)[..., None].expand_as(targets).float()
        pooled = self.trained((targets * (1 - mask)).unflatten(2, volumes.shape[2:]), attention_mask).pooler_output
        predictions = self.decoder(pooled)[:, None].expand_as(targets)
        loss = ((predictions - targets) ** 2 * mask).sum() / mask.sum()
        return ModelOutput(loss=loss, predictions=predictions, targets=targets, signal_mask=mask)


@pytest.mark.parametrize("kind", ["MAETrainer", "JEPATrainer"])
def test_it_is_pretrained_by_the_trainers_of_this_package(kind, processor, rows, tmp_path) -> None:
    def make(**arguments: Any) -> Any:
        set_seed(0)
        args = {"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 0.01, "report_to": "none"}
        args |= {"use_cpu": True, "save_strategy": "no", **arguments}
        return getattr(bt, kind)(
            TinyVolumeForMaskedModeling(TinyVolumeConfig()),
            getattr(bt, kind.replace("Trainer", "TrainingArguments"))(tmp_path, **args),
            train_dataset=rows,
            eval_dataset=rows[1:],
            processing_class=processor,
        )

    trainer = make()
    batches, again = list(trainer.get_train_dataloader()), list(make().get_train_dataloader())
    assert {name for batch in batches for name in batch} == {"volumes", "attention_mask", "noise"}
    assert all(torch.equal(batch[name], other[name]) for batch, other in zip(batches, again) for name in batch)
    workers = list(make(dataloader_num_workers=2).get_train_dataloader())
    assert all(torch.equal(batch[name], other[name]) for batch, other in zip(batches, workers) for name in batch)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    assert not torch.equal(before["trained.embeddings.weight"], after["trained.embeddings.weight"])
    # The average moves where the objective asks for one.
    assert torch.equal(before["made_up.embeddings.weight"], after["made_up.embeddings.weight"]) == (
        kind == "MAETrainer"
    )
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]
