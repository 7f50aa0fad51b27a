"""The linear-probe protocol: one batched head equals separate heads, and finds what is there."""

import numpy as np
import pytest
import torch
from torch import nn

from brain_transformers.evaluation.linear_probe import (
    ProbeHeads,
    average_crops,
    balanced_rows,
    linear_probe_protocol,
    train_probe_heads,
)
from brain_transformers.training.scores import choosing_score, prediction_scores


def data(n: int = 40, n_features: int = 6, n_classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    features = torch.randn(n, n_features, generator=generator) + 1.5 * nn.functional.one_hot(labels, n_features)
    return features, labels


def separate_module(
    features: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, rate: float, epochs: int
) -> nn.Module:
    """A head of a grid as torch modules in double precision, trained on full batches by torch's SGD."""
    module = nn.Sequential(nn.BatchNorm1d(features.shape[1]), nn.Linear(features.shape[1], len(bias))).double()
    features = features.double()
    with torch.no_grad():
        module[1].weight.copy_(weight)
        module[1].bias.copy_(bias)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9)
    for _ in range(epochs):
        output = module(features)
        if targets.is_floating_point():
            loss = nn.functional.l1_loss(output[:, 0], targets)
        else:
            loss = nn.functional.cross_entropy(output, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


@pytest.mark.parametrize("regression", [False, True])
def test_a_grid_equals_torch_modules_one_by_one(regression: bool) -> None:
    features, labels = data()
    # Far from 0 and of another size, and one that never changes: the norm has to cope with both.
    features[:, 1] = 50 + 200 * features[:, 1]
    features[:, 2] = 7.0
    targets = labels.float() if regression else labels
    n_outputs, rates = (1, 3)[not regression], [0.03, 0.003]
    rows = torch.stack([torch.arange(30), torch.arange(39, 9, -1)])
    fresh = ProbeHeads.create(2, 2, 6, n_outputs, seed=1)
    weight, bias = fresh.weight.clone(), fresh.bias.clone()
    heads = train_probe_heads(features, targets, rows=rows, learning_rates=rates, epochs=7, batch_size=30, heads=fresh)
    for split in range(2):
        for rate in range(2):
            chosen = rows[split]
            module = separate_module(
                features[chosen], targets[chosen], weight[split, rate], bias[split, rate], rates[rate], 7
            )
            expected = module(features.double()).detach().float()
            torch.testing.assert_close(heads(features)[split, rate], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(heads.logits(features, split)[rate], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(heads.running_var[split], module[0].running_var.float(), rtol=1e-4, atol=1e-5)
    assert heads.n_batches == 7


def test_batches_follow_the_published_size_and_are_shuffled() -> None:
    features, labels = data(64)
    heads = train_probe_heads(features, labels, epochs=3)
    assert heads.n_batches == 3 * 8
    again = train_probe_heads(features, labels, epochs=3)
    other = train_probe_heads(features, labels, epochs=3, seed=1)
    assert torch.equal(heads.weight, again.weight)
    assert not torch.equal(heads.weight, other.weight)
    few = train_probe_heads(features[:5], labels[:5], epochs=3)  # the published size would be batches of one row
    assert few.n_batches == 3 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda features, labels: (features, labels[:10]), "one a row"),
        (lambda features, labels: (features[:1], labels[:1]), "at least two rows"),
        (lambda features, labels: (features * torch.nan, labels), "finite features"),
        (lambda features, labels: (features, labels - 1), "classes from 0"),
    ],
)
def test_what_cannot_be_probed_is_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_probe_heads(*change(*data()))


def test_the_protocol_finds_what_is_there_and_nothing_where_there_is_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    signal = rng.standard_normal((120, 8, 10)) + 1.2 * labels[:, None, None]
    noise = rng.standard_normal((120, 8, 10))
    found = linear_probe_protocol(signal, labels, n_repetitions=4, epochs=10)
    nothing = linear_probe_protocol(noise, labels, n_repetitions=4, epochs=10)
    assert found.summary()["balanced_accuracy"][0] > 0.9
    assert 0.3 < nothing.summary()["balanced_accuracy"][0] < 0.7
    mean = np.mean([entry["balanced_accuracy"] for entry in found.single_crop])
    assert mean <= found.summary()["balanced_accuracy"][0]  # averaging crops helps
    assert len(found.learning_rates) == 4
    ages = labels * 10.0 + 50
    regression = linear_probe_protocol(signal, ages, n_repetitions=2, epochs=40, task="regression")
    assert set(regression.ensembled[0]) == {"mse", "mae", "r2", "pearson_r"}
    with pytest.raises(ValueError, match="n_crops"):
        linear_probe_protocol(signal[:, 0], labels)


def test_training_can_be_limited_to_a_few_crops_of_each_class() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    drawn = balanced_rows(labels, [torch.arange(40), torch.arange(5, 40)], 8, seed=0)
    assert drawn.shape == (2, 16)
    assert all(len(set(rows.tolist())) == 16 and int(labels[rows].sum()) == 8 for rows in drawn)
    assert balanced_rows(labels, [torch.arange(32)], 8, seed=0).shape == (1, 4)  # as many as the rarest class has
    with pytest.raises(ValueError, match="none of class 1"):
        balanced_rows(labels, [torch.arange(40), torch.arange(30)], 8, seed=0)
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 2
    signal = rng.standard_normal((60, 4, 10)) + 0.5 * classes[:, None, None]
    options = {"n_repetitions": 4, "epochs": 20}
    few = linear_probe_protocol(signal, classes, max_train_crops_per_label=3, **options)
    assert (
        few.summary()["balanced_accuracy"][0]
        < linear_probe_protocol(signal, classes, **options).summary()["balanced_accuracy"][0]
    )
    with pytest.raises(ValueError, match="is for classes"):
        linear_probe_protocol(signal, classes * 1.5, max_train_crops_per_label=3)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([np.nan, *range(19)], {}, "1 that are missing"),
        ([0, None, 1, 1] * 5, {}, r"5 that are missing.*rows \[1, 5,"),
        (["F", "M"] * 10, {"task": "regression"}, "got text"),
        ([0] * 20, {}, "two classes"),
        ([0, 1] * 10, {"subjects": [None] * 10 + list(range(10))}, "got None for scan 0"),
        ([0, 1] * 10, {"ratios": (0.6, 0.4)}, "three ratios"),
        ([0, 1] * 10, {"n_repetitions": 0}, "at least one repetition"),
        ([0, 1] * 10, {"learning_rates": ()}, "at least one learning rate"),
        (np.arange(20) / 3, {"stratify": True}, "stratify=False"),
    ],
)
def test_labels_and_splits_that_cannot_be_meant_are_refused(labels, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_probe_protocol(np.ones((20, 2, 3)), labels, **{"epochs": 1, **options})


def test_a_head_that_diverged_is_not_chosen_and_has_no_scores() -> None:
    for labels, width in ((torch.tensor([0, 1, 1, 0]), 2), (torch.arange(4.0), 1)):
        logits = torch.full((4, width), torch.nan)
        assert choosing_score(logits, labels) == -np.inf
        assert all(np.isnan(value) for value in prediction_scores(logits, labels).values())
    features, ages = torch.randn(60, 2, 5), np.linspace(20, 80, 60)
    found = linear_probe_protocol(features, ages, learning_rates=(1e38, 0.01), n_repetitions=2, epochs=5)
    assert found.learning_rates == [0.01, 0.01]


def test_metrics_of_perfect_and_undefined_predictions() -> None:
    labels = np.array([0, 1, 1, 0])
    perfect = prediction_scores(np.eye(2)[labels] * 5, labels)
    assert set(perfect) == {"accuracy", "balanced_accuracy", "f1", "precision", "recall", "f1_macro", "auroc"}
    assert all(value == 1 for value in perfect.values())
    constant = prediction_scores(np.array([[1.0, 0.0]] * 4), labels)
    assert (constant["precision"], constant["f1"], constant["auroc"]) == (0, 0, 0.5)
    assert constant["balanced_accuracy"] == 0.5
    numbers = prediction_scores(np.array([[1.0], [2.0]]), np.array([1.5, 2.0]))
    assert numbers["mae"] == pytest.approx(0.25)
    assert prediction_scores(np.ones((3, 1)), np.array([1.0, 2.0, 3.0]))["pearson_r"] == 0
    assert set(prediction_scores(np.eye(2)[:, :1], np.ones(2))) == {"mse", "mae"}  # nothing to explain
    assert "auroc" not in prediction_scores(np.eye(2), np.ones(2, dtype=int))


@pytest.mark.parametrize("regression", [False, True])
def test_the_score_that_chooses_is_one_of_those_reported(regression: bool) -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    logits = torch.randn(6, 1 if regression else 3, generator=torch.Generator().manual_seed(0))
    targets = labels.float() if regression else labels
    reported = prediction_scores(logits, targets)
    expected = -reported["mae"] if regression else reported["balanced_accuracy"]
    assert choosing_score(logits, targets) == pytest.approx(expected)


def test_crops_of_a_subject_are_averaged() -> None:
    logits = torch.arange(12.0).reshape(6, 2)
    assert average_crops(logits, 3).tolist() == [[2.0, 3.0], [8.0, 9.0]]


def test_labels_are_what_they_are_everywhere(capsys) -> None:
    rng = np.random.default_rng(0)
    numbers = np.arange(60) % 2
    features = rng.standard_normal((60, 2, 6)) + numbers[:, None, None]
    options = {"n_repetitions": 2, "epochs": 5}
    expected = linear_probe_protocol(features, numbers, **options)
    assert "labels: 2 classes, 60 scans, 2 random splits" in capsys.readouterr().out
    for labels in (numbers.astype(float), numbers + 1, np.where(numbers, "m", "f").tolist(), numbers > 0):
        assert linear_probe_protocol(features, labels, **options).ensembled == expected.ensembled
    ages = np.arange(60) + 20
    assert set(linear_probe_protocol(features, ages, **options).ensembled[0]) == {"mse", "mae", "r2", "pearson_r"}
    assert "regression of 60 distinct numbers" in capsys.readouterr().out
    features[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 scans \(rows \[7\]\)"):
        linear_probe_protocol(features, ages, **options)
    rare = [1] * 3 + [0] * 57
    with pytest.warns(UserWarning, match=r"the test scans lack a class.*AUROC is the mean of the other \d"):
        result = linear_probe_protocol(np.nan_to_num(features), rare, n_repetitions=8, epochs=2)
    assert 0 < result.n_defined()["auroc"] < result.n_defined()["accuracy"] == 8
