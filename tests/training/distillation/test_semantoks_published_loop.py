"""The authors' training loop written out, against the Trainer: accumulation, layer-wise decay, counting of steps."""

import math

import numpy as np
import pytest
import torch
from tiny_self_distillation import make_arguments, make_model

import brain_transformers as bt
from brain_transformers.training import fine_tuning_groups

BATCHES, SIZE, PEAK, WARMUP, DECAY_STEPS = 8, 3, 2e-3, 2, 4


def make_rows():
    rng = np.random.default_rng(0)
    rows = []
    for batch in range(BATCHES):
        for _ in range(SIZE):
            row = {"signals": rng.standard_normal((2, 20, 40)).astype(np.float32)}
            if batch % 3 != 1:  # some batches without masks
                row["bool_masked_pos"] = rng.random((2, 5, 4)) < 0.5
            rows.append(row)
    return rows


def collate(rows):
    names = [name for name in ("signals", "bool_masked_pos") if name in rows[0]]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in names}


def published_loop(model, rows, accumulation, layer_decay, weight_decay_end):
    groups = fine_tuning_groups(model, learning_rate=PEAK, weight_decay=0.05, layer_decay=layer_decay, published=True)
    rates = [group["lr"] for group in groups]
    optimizer = torch.optim.AdamW(groups)
    model.train()
    updates, used, norms = 0, [], []
    for batch in range(BATCHES):
        factor = updates / WARMUP
        if updates >= WARMUP:
            factor = 0.5 * (1 + math.cos(math.pi * (updates - WARMUP) / (BATCHES - WARMUP)))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
            if weight_decay_end is not None:
                span = 0.05 - weight_decay_end
                group["weight_decay"] = weight_decay_end + 0.5 * span * (1 + math.cos(math.pi * batch / BATCHES))
        weight = 0.5 * 0.5 * (1 + math.cos(math.pi * batch / DECAY_STEPS)) if batch < DECAY_STEPS else 0.0
        inputs = collate(rows[batch * SIZE : (batch + 1) * SIZE])
        loss = model(**inputs, network_loss_weight=weight).loss
        (loss / accumulation).backward()
        if (batch + 1) % accumulation == 0 or batch + 1 == BATCHES:
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
            optimizer.step()
            optimizer.zero_grad()
            momentum = 1 - (1 - 0.9) * (math.cos(math.pi * batch / BATCHES) + 1) / 2
            with torch.no_grad():
                for teacher, student in model.averages():
                    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                        mine.mul_(momentum).add_(theirs, alpha=1 - momentum)
            updates += 1
            used.append([group["lr"] for group in optimizer.param_groups])
    return used, norms


@pytest.mark.parametrize(
    ("accumulation", "layer_decay", "weight_decay_end", "separate"),
    [(1, 1.0, 0.3, False), (2, 0.9, 0.3, False), (2, 0.8, None, True), (4, 1.0, None, False), (3, 1.0, 0.3, False)],
)
def test_the_trainer_does_what_the_loop_does(tmp_path, accumulation, layer_decay, weight_decay_end, separate):
    rows = make_rows()
    by_hand = make_model(separate_mask_head=separate)
    used, norms = published_loop(by_hand, rows, accumulation, layer_decay, weight_decay_end)
    trainer = bt.SelfDistillationTrainer(
        make_model(separate_mask_head=separate),
        make_arguments(
            tmp_path,
            num_train_epochs=1,
            per_device_train_batch_size=SIZE,
            gradient_accumulation_steps=accumulation,
            learning_rate=PEAK,
            warmup_epochs=WARMUP / BATCHES,
            network_loss_decay_epochs=DECAY_STEPS / BATCHES,
            weight_decay=0.05,
            final_weight_decay=weight_decay_end,
            layer_decay=layer_decay,
            teacher_momentum=0.9,
            train_sampling_strategy="sequential",
            published_parameter_groups=True,
            published_step_counting=True,
        ),
        collate,
        train_dataset=rows,
    )
    rates = []
    step = trainer.create_optimizer().step
    trainer.optimizer.step = lambda *a, **k: (
        rates.append([group["lr"] for group in trainer.optimizer.param_groups]),
        step(*a, **k),
    )[1]
    trainer.train()
    np.testing.assert_allclose(rates, used, rtol=1e-12, atol=1e-18)
    logged = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
    np.testing.assert_allclose(logged, norms, rtol=1e-3)
    for (name, expected), (_, actual) in zip(
        by_hand.named_parameters(), trainer.model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-6, msg=name)
