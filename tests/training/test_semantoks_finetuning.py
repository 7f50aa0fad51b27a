"""Fine-tuning with the authors' protocol: groups, schedule by epoch, augmented crops, averaged logits."""

import numpy as np
import pytest
import torch
from tiny_self_distillation import logged, make_scans
from transformers import set_seed

import brain_transformers as bt
from brain_transformers.evaluation import predict_crops
from brain_transformers.training.seeded_rows import SeededRows
from brain_transformers.training.semantoks_finetuning import (
    AugmentedCropCollator,
    SemantoksFineTuner,
    SemantoksFineTuningArguments,
)


def labelled(n_scans: int, seed: int = 0):
    rows = make_scans(n_scans, seed)
    for number, row in enumerate(rows):
        row["sex"] = number % 2
        signals = row["signals"].reshape(20, -1).copy()
        signals[:6] = signals[:1] if row["sex"] else signals[:6]  # one network in step, or not
        row["signals"] = signals.reshape(-1)
    return rows


def make_tuner(tmp_path, **values):
    set_seed(0)
    model = bt.BrainSemantoksForSequenceClassification(
        bt.load_config("brain-semantoks-tiny", num_labels=2, classifier_head="batch_norm_linear")
    )
    arguments = SemantoksFineTuningArguments(
        output_dir=str(tmp_path),
        **{
            "use_cpu": True,
            "num_train_epochs": 4,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **values,
        },
    )
    return SemantoksFineTuner(
        model,
        arguments,
        "sex",
        train_dataset=labelled(16),
        eval_dataset=labelled(8, seed=5),
        processing_class=bt.ROISeriesFeatureExtractor.from_model_config(model.config),
    )


def test_learning_rate_is_scaled_and_steps_down_by_epoch(tmp_path):
    tuner = make_tuner(tmp_path)
    assert tuner.args.learning_rate == pytest.approx(1e-4 * 8 / 256)
    tuner.train()
    rates = logged(tuner, "learning_rate")
    expected = [1e-4 * 8 / 256 * 0.5 * (1 + np.cos(np.pi * epoch / 4)) for epoch in (0, 0, 1, 1, 2, 2, 3, 3)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
    warm = make_tuner(tmp_path, lr_warmup_epochs=2, learning_rate=1e-3, schedule="constant")
    warm.train()
    np.testing.assert_allclose(logged(warm, "learning_rate")[::2], [1e-4, 5.5e-4, 1e-3, 1e-3], rtol=1e-9)


def test_tokenizers_take_part_in_layer_wise_decay(tmp_path):
    for published, expected in ((False, 0.25), (True, 1.0)):
        tuner = make_tuner(tmp_path, layer_decay=0.5, learning_rate=1.0, published_parameter_groups=published)
        tuner.create_optimizer()
        names = {id(p): name for name, p in tuner.model.named_parameters()}
        rates = {names[id(p)]: group["lr"] for group in tuner.optimizer.param_groups for p in group["params"]}
        assert set(rates) == set(names.values())
        assert rates["brain_semantoks.embeddings.tokenizers.0.branches.0.convolution.weight"] == expected
        assert rates["classifier.output.weight"] == 1.0


def test_fine_tuning_learns_and_averages_crops(tmp_path):
    tuner = make_tuner(tmp_path, learning_rate=3e-3, num_train_epochs=30, augmentation=[0, 0, 0, 0])
    tuner.train()
    losses = logged(tuner, "loss")
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    rows = labelled(8, seed=5)
    logits = predict_crops(tuner.model, rows, tuner.processing_class, n_crops=4)
    assert logits.shape == (8, 4, 2)
    assert not torch.equal(logits[:, 0], logits[:, 3])
    guesses = logits.mean(1).argmax(1).tolist()
    assert sum(guess == row["sex"] for guess, row in zip(guesses, rows, strict=True)) >= 7


def test_crops_are_augmented_in_training_only():
    config = bt.load_config("brain-semantoks-tiny")
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config)
    rows = SeededRows(labelled(4))
    plain, changed = (AugmentedCropCollator(extractor, "sex", seed=0, augmentation=level) for level in (0, 2))
    evaluated = [rows[number] for number in range(4)]
    trained = [rows[(0, number)] for number in range(4)]
    assert torch.equal(plain(evaluated)["signals"], changed(evaluated)["signals"])
    assert not torch.equal(plain(trained)["signals"], changed(trained)["signals"])
    assert torch.equal(changed(trained)["signals"], changed(trained)["signals"])
    assert changed(trained)["labels"].tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="schedule"):
        SemantoksFineTuningArguments(output_dir="unused", schedule="sine", use_cpu=True)
