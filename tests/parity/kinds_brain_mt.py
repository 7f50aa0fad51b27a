"""How each kind of BrainMT case is computed with the public classes and functions."""

from pathlib import Path

import torch
from golden_case import GoldenCase
from safetensors.torch import load_file

from brain_transformers.layers.mamba_mixer import MambaMixer

# The authors' arguments of a mixer, and ours.
_MIXER_ARGUMENTS = {
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "dt_rank": "time_step_rank",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "mixer": "mixer_type",
    "if_divide_out": "if_divide_out",
}
# The authors' float64 values are those of one formula in two evaluations, which agree to this.
_FLOAT64_ATOL = 1e-10


def mixer(case: GoldenCase, work: Path) -> None:
    """One mixer alone: its state dict is ours as it is."""
    config = case.json("config.json")
    model = MambaMixer(
        config.pop("d_model"), **{_MIXER_ARGUMENTS[name]: value for name, value in config.items()}
    ).train()
    model.load_state_dict(load_file(case.folder / "checkpoint.safetensors"))
    hidden_states = case.take("input").clone().requires_grad_()
    output = model(hidden_states)
    case.compare("output", output)
    if case.has("cotangent"):
        (output * case.take("cotangent")).sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        gradients["input"] = hidden_states.grad
        for name in case.names("grad."):
            case.compare_gradient(name, gradients[name.removeprefix("grad.")])
    with torch.no_grad():
        case.check("output without gradients", model(hidden_states), output)
        if case.has("output_f64"):
            case.compare("output_f64", model.double()(hidden_states.double()), atol=_FLOAT64_ATOL)


KINDS = {"mixer": mixer}
