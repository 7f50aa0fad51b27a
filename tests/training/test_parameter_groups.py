"""Learning rates that fall towards the input: by the model's own layers, whatever other parts are called."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers.training import decay_parameter_names
from brain_transformers.training.parameter_groups import fine_tuning_groups

FAMILIES = {
    "brainlm-tiny": {"n_rois": 12},
    "brainlm-vit-tiny": {"n_rois": 24, "image_size": 64},
    "brain-jepa-tiny": {},
    "brain-semantoks-tiny": {},
}


def _rates(model, layer_decay=0.5):
    groups = fine_tuning_groups(model, learning_rate=1.0, weight_decay=0.1, layer_decay=layer_decay)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    assert set(rates) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return rates


@pytest.mark.parametrize("name", FAMILIES)
def test_only_layers_of_the_encoder_learn_slower(name):
    config = bt.load_config(name, **FAMILIES[name])
    pretraining = AutoModelForPreTraining.from_config(config)
    classifier = AutoModelForSequenceClassification.from_config(config)
    n_layers = config.num_hidden_layers
    prefix = classifier.base_model_prefix
    for model in (pretraining, classifier):
        model.requires_grad_(True)
        twin = {"brain_jepa": "context_encoder", "brain_semantoks": "student"}.get(prefix)
        for parameter, rate in _rates(model).items():
            top, _, rest = parameter.partition(".")
            if top not in (prefix, twin):
                assert rate == 1.0, parameter  # heads, decoders, predictors
            elif rest.startswith("layers."):
                above = n_layers - int(rest.split(".")[1])
                assert rate == 0.5 ** (above - 1 if prefix == "brain_semantoks" else above), parameter
            elif rest.startswith("embeddings."):
                assert rate <= 0.5**n_layers, parameter
            else:
                assert rate == 1.0, parameter


def test_a_decoder_beside_a_classifier_learns_at_the_full_rate():
    """With joint reconstruction the decoder's own `layers.N` once counted as early layers of the encoder."""
    config = bt.load_config("brainlm-vit-tiny", **FAMILIES["brainlm-vit-tiny"], reconstruction_weight=0.5)
    model = AutoModelForSequenceClassification.from_config(config)
    rates = _rates(model)
    assert {rate for name, rate in rates.items() if name.startswith(("decoder.", "classifier."))} == {1.0}
    assert rates["brainlm_vit.layers.0.mlp.fc1.weight"] == 0.25
    assert any(name.startswith("decoder.layers.0.") for name in rates)


def test_adapters_learn_at_the_rate_of_their_layer():
    peft = pytest.importorskip("peft")
    model = AutoModelForSequenceClassification.from_config(bt.load_config("brain-jepa-tiny"))
    options = {"target_modules": ["qkv"], "modules_to_save": ["classifier"], "r": 2}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options))
    rates = _rates(adapted)
    assert rates["base_model.model.brain_jepa.layers.0.attention.qkv.lora_A.default.weight"] == 0.25
    assert rates["base_model.model.brain_jepa.layers.1.attention.qkv.lora_B.default.weight"] == 0.5
    assert {rate for name, rate in rates.items() if "classifier" in name} == {1.0}


def test_a_frozen_head_is_left_out():
    model = AutoModelForSequenceClassification.from_config(bt.load_config("brain-semantoks-tiny"))
    model.classifier.requires_grad_(False)
    assert not [name for name in _rates(model) if name.startswith("classifier")]


def test_weight_decay_goes_by_what_a_parameter_is_and_not_by_letters_in_its_name():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias_network = nn.Linear(3, 2)
            self.layernormal = nn.Linear(2, 2)
            self.renorm = nn.BatchNorm1d(2)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 2))
            self.prepositions = nn.Parameter(torch.zeros(4, 2))

    names = set(decay_parameter_names(Biased()))
    assert names == {"bias_network.weight", "layernormal.weight", "prepositions"}
