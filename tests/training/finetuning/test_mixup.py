"""Mixup in fine-tuning: inputs, masks and labels of the same two samples, by a share that the run can repeat."""

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

import brain_transformers as bt


def model(**overrides: Any) -> Any:
    torch.manual_seed(0)
    config = bt.load_config("brain-harmony-tiny", num_labels=3, **overrides)
    return bt.BrainHarmonyForSequenceClassification(config)


def batch() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, 6, 5, dtype=torch.long)
    mask[0, :, 2:], mask[1, :, 4:] = 0, 0
    tokens = torch.randn(2, 42, 24, generator=torch.Generator().manual_seed(1))
    return {"inputs_embeds": tokens, "attention_mask": mask.flatten(1)}


def test_a_token_counts_where_either_sample_has_it_and_padding_is_nothing() -> None:
    inputs = batch()
    mixed = model().mix_inputs(inputs, 0.3)
    tokens = inputs["inputs_embeds"]
    first, second = (torch.nn.functional.pad(row.bool(), (0, 12), value=True) for row in inputs["attention_mask"])
    assert torch.equal(mixed["attention_mask"], (first | second).expand(2, -1))
    assert int(mixed["attention_mask"][0].sum()) == 6 * 4 + 12
    both, alone = (first & second).nonzero()[:, 0], (second & ~first).nonzero()[:, 0]
    torch.testing.assert_close(
        mixed["inputs_embeds"][0, both], 0.3 * tokens[0, both] + 0.7 * tokens[1, both], rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(mixed["inputs_embeds"][0, alone], 0.7 * tokens[1, alone])
    torch.testing.assert_close(mixed["inputs_embeds"][1, alone], 0.3 * tokens[1, alone])


def test_samples_that_differ_in_what_cannot_be_mixed_are_refused() -> None:
    fmri = bt.HarmonixFForSequenceClassification(bt.load_config("harmonix-f-tiny", num_labels=2))
    inputs = {"signals": torch.randn(2, 12, 40), "patch_size": torch.tensor([8, 4])}
    with pytest.raises(ValueError, match="alike in patch_size"):
        fmri.mix_inputs(inputs, 0.5)
    inputs["patch_size"] = torch.tensor([8, 8])
    assert torch.equal(fmri.mix_inputs(inputs, 1.0)["signals"], inputs["signals"])


class Seen(bt.FineTuningTrainer):
    """Keeps the batches that the model is given in training, and its losses."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.__dict__.setdefault("seen", []).append({name: value.clone() for name, value in inputs.items()})
        return super().compute_loss(model, inputs, *args, **kwargs)


def trained(folder: Any, **options: Any) -> Any:
    rng = np.random.default_rng(0)
    rows = [
        {"inputs_embeds": rng.normal(size=(42, 24)).astype(np.float32), "attention_mask": [1] * 30, "labels": n % 3}
        for n in range(8)
    ]

    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: torch.as_tensor(np.stack([item[name] for item in items])) for name in items[0]}

    arguments = bt.FineTuningArguments(
        str(folder),
        max_steps=3,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    trainer = Seen(model(label_smoothing=0.1), arguments, data_collator=collate, train_dataset=rows)
    trainer.train()
    return trainer


def test_training_sees_mixed_labels_by_shares_that_a_run_repeats(tmp_path) -> None:
    first, again = (trained(tmp_path / name, mixup_alpha=0.4) for name in ("a", "b"))
    shares = []
    for one, other in zip(first.seen, again.seen, strict=True):
        assert torch.equal(one["labels"], other["labels"])
        assert torch.equal(one["inputs_embeds"], other["inputs_embeds"])
        torch.testing.assert_close(one["labels"].sum(1), torch.ones(4))
        shares.append(float(one["labels"].max(1).values.min()))
    assert len(set(shares)) > 1
    plain = trained(tmp_path / "c")
    assert plain.seen[0]["labels"].dtype == torch.int64
    with pytest.raises(ValueError, match=r"mixup_alpha .* must be at least 0"):
        bt.FineTuningArguments(str(tmp_path), mixup_alpha=-1.0)


def test_shares_of_classes_are_learned_with_their_cross_entropy() -> None:
    network, inputs = model().eval(), batch()
    network.config.problem_type = "single_label_classification"
    shares = torch.tensor([[0.3, 0.7, 0.0], [0.5, 0.0, 0.5]])
    with torch.no_grad():
        output = network(**inputs, labels=shares)
    torch.testing.assert_close(output.loss, -(shares * output.logits.log_softmax(1)).sum(1).mean())
