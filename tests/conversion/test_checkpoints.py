"""What all converters share: one source a target, one boundary for damaged files, no way to unsafe loading."""

import argparse
import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import RepoCard
from safetensors.torch import load_file

import brain_transformers as bt

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brain_jepa
import convert_brain_semantoks
import convert_brainlm

from brain_transformers.cli.main import main
from brain_transformers.conversion.containers import read_model_folder, read_number_table, read_torch_checkpoint
from brain_transformers.conversion.convert import convert as convert_files
from brain_transformers.conversion.convert import fingerprint
from brain_transformers.hub import model_card
from brain_transformers.hub.registry import name_by_size
from brain_transformers.models.conversion_base import (
    ConversionError,
    ConvertedCheckpoint,
    Converter,
    GivenFile,
    InputFile,
    KeyMap,
    check_against_model,
    count_layers,
    tensor_of,
    weights_of,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
# Words that make a user switch the protection off.
UNSAFE = ("weights_only=False", "weights_only`", "trust the source", "add_safe_globals")


@pytest.fixture
def authors(tmp_path: Path) -> Path:
    folder = tmp_path / "authors"
    shutil.copytree(GOLDEN / "brainlm" / "a_pretrain" / "checkpoint", folder)
    return folder


def convert(authors: Path, output: Path, *more: str) -> int:
    return convert_brainlm.main(["--checkpoint", str(authors), "--output", str(output), *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- two sources, one target ---


def test_two_keys_for_one_tensor_are_refused_and_both_are_named() -> None:
    key_map = KeyMap(
        rules=[(r"(?:module\.)?norm\.weight", "norm.weight"), (r"qkv\.weight", "qkv.weight")],
        fused=[(r"(?:module\.)?(?P<part>query|key|value)\.weight", "qkv.weight")],
    )
    with pytest.raises(ConversionError, match=r"norm\.weight and module\.norm\.weight"):
        key_map.convert({"norm.weight": torch.zeros(2), "module.norm.weight": torch.ones(2)})
    parts = {f"{part}.weight": torch.zeros(2, 2) for part in ("query", "key", "value")}
    with pytest.raises(ConversionError, match=r"key\.weight and module\.key\.weight"):
        key_map.convert({**parts, "module.key.weight": torch.ones(2, 2)})
    with pytest.raises(ConversionError, match="both fused and in parts"):
        key_map.convert({**parts, "qkv.weight": torch.zeros(6, 2)})
    with pytest.raises(ConversionError, match="three alike"):
        key_map.convert({**parts, "key.weight": torch.zeros(3, 2)})


def test_a_brain_jepa_file_with_wrapped_and_unwrapped_weights_is_refused(tmp_path: Path, capsys) -> None:
    case = GOLDEN / "brain_jepa" / "encoder_flash_mode"
    content = torch.load(case / "checkpoint.pth.tar", weights_only=True)
    name = next(key for key in content["target_encoder"] if key.endswith("norm.weight"))
    other = name.removeprefix("module.") if name.startswith("module.") else f"module.{name}"
    content["target_encoder"][other] = content["target_encoder"][name] + 1
    torch.save(content, tmp_path / "both.pth.tar")
    gradients = load_file(case / "tensors.safetensors")["gradient"][0].numpy()
    np.savetxt(tmp_path / "gradient.csv", gradients, delimiter=",")
    arguments = {"--checkpoint": tmp_path / "both.pth.tar", "--gradient": tmp_path / "gradient.csv"}
    arguments |= {"--num-attention-heads": 3, "--output": tmp_path / "converted"}
    assert convert_brain_jepa.main([str(word) for pair in arguments.items() for word in pair]) == 2
    error = capsys.readouterr().err
    assert name in error
    assert other in error
    assert not (tmp_path / "converted").exists()


# --- where the result may lie ---


@pytest.mark.parametrize("output", ["authors", "authors/", "link", "."])
def test_the_authors_folder_is_no_output(output: str, authors: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "link").symlink_to(authors)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert convert(Path("authors"), Path(output)) == 2
    assert "Name another folder" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_another_model_is_not_replaced(authors: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    before = contents(other)
    assert convert(authors, other) == 2
    assert "did not write" in capsys.readouterr().err
    assert contents(other) == before


def test_an_earlier_conversion_is_replaced_and_notes_stay(authors: Path, tmp_path: Path) -> None:
    output = tmp_path / "converted"
    assert convert(authors, output) == 0
    (output / "notes.txt").write_text("mine")
    assert convert(authors, output, "--source", "lab/model") == 0
    assert (output / "notes.txt").read_text() == "mine"
    assert "lab/model" in (output / "README.md").read_text()
    (output / "config.json").unlink()
    (output / "config.json").mkdir()
    (output / "config.json" / "mine").write_text("mine")
    before = contents(output)
    assert convert(authors, output) == 2
    assert contents(output) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["authors", "converted"]


def test_a_repository_that_cannot_be_is_refused_before_the_work(authors: Path, tmp_path: Path, capsys) -> None:
    assert convert(authors, tmp_path / "converted", "--push-to-hub", "no/such/name") == 2
    assert "organisation/name" in capsys.readouterr().err
    assert not (tmp_path / "converted").exists()


# --- damaged files ---


def _npy(shape: tuple[int, ...], data: bytes = b"") -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header.encode() + b"\n" + data


def _zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class _Names:
    """Pickles as a reference to something that is no tensor."""

    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


WEIGHTS = {
    "empty": b"",
    "one byte": b"\x80",
    "zeros": bytes(1000),
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "a page": b"<html>not found</html>",
    "a zip of something": _zip_of({"a.txt": b"text"}),
    "a bomb": _zip_of({"archive/data.pkl": bytes(50_000_000), "archive/version": b"3\n"}),
    "code": pickle.dumps(_Names()),
    "code in a zip": _saved({"weights": _Names()}),
    "nested": b"(" * 100_000 + b".",
    "a list": _saved([1, 2]),
    "numbers as names": _saved({1: torch.zeros(2)}),
    "a stretched tensor": _saved({"vit.embeddings.cls_token": torch.zeros(1).expand(2**20, 2**20)}),
    "sparse": _saved({"vit.embeddings.cls_token": torch.eye(3).to_sparse()}),
    "words": _saved({"vit.embeddings.signal_embedding_projection.weight": "words"}),
    "NaN": _saved({"vit.embeddings.cls_token": torch.full((1, 1, 16), float("nan"))}),
}


@pytest.mark.parametrize("damage", WEIGHTS)
def test_weights_of_any_kind_are_one_line_that_names_the_file(
    damage: str, authors: Path, tmp_path: Path, capsys
) -> None:
    path = authors / "pytorch_model.bin"
    if damage in ("a stretched tensor", "sparse", "words", "NaN"):
        path.write_bytes(_saved(torch.load(path, weights_only=True) | torch.load(io.BytesIO(WEIGHTS[damage]))))
    else:
        path.write_bytes(WEIGHTS[damage])
    assert convert(authors, tmp_path / "converted") == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert str(authors) in line
    assert "xpected" in line or "Download" in line
    assert "this must not run" not in captured.out
    assert not any(words in line for words in UNSAFE)
    assert not (tmp_path / "converted").exists()


CONFIGS: dict[str, Callable[[dict[str, Any]], str]] = {
    "empty": lambda config: "",
    "nested": lambda config: "[" * 100_000,
    "a list": lambda config: "[1, 2]",
    "a number": lambda config: "9" * 5000,
    "words for numbers": lambda config: json.dumps({**config, "hidden_size": "wide"}),
    "nothing for numbers": lambda config: json.dumps({**config, "num_attention_heads": None}),
    "lists for numbers": lambda config: json.dumps({**config, "num_brain_voxels": [12]}),
    "no heads": lambda config: json.dumps({**config, "num_attention_heads": 0}),
    "a billion layers": lambda config: json.dumps({**config, "num_hidden_layers": 10**9}),
    "minus": lambda config: json.dumps({**config, "timepoint_patching_size": -20}),
    "digits": lambda config: f'{{"hidden_size": {"9" * 5000}, {json.dumps(config)[1:]}',
}


@pytest.mark.parametrize("damage", CONFIGS)
def test_configurations_of_any_kind_are_one_line_that_names_the_file(
    damage: str, authors: Path, tmp_path: Path, capsys
) -> None:
    path = authors / "config.json"
    path.write_text(CONFIGS[damage](json.loads(path.read_text())))
    code = convert(authors, tmp_path / "converted")
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert str(authors) in line
    assert damage != "words for numbers" or "expected int, got str" in line
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("table.csv", b""),
        ("table.csv", b"\x00\xff\x00"),
        ("table.csv", b"1,2\n3\n"),
        ("table.csv", b"1,nan\n2,3\n"),
        ("table.csv", b"1,1e999\n2,3\n"),
        ("table.npy", b""),
        ("table.npy", b"\x93NUMPY\x01\x00\xff\xff" + b"x" * 100),
        ("table.npy", _npy((2**40, 2**10))),
        ("table.npy", _npy((2, 2), bytes(3))),
        ("table.npy", pickle.dumps([1, 2])),
        ("table.npy", _zip_of({"a.npy": b""})),
    ],
)
def test_gradient_tables_of_any_kind_are_one_error_that_names_the_file(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConversionError, match=name):
        read_number_table(tmp_path / name, "a gradient table")


@pytest.mark.parametrize("option", ["--network-map", "--config"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff",
        b"[" * 50_000,
        _zip_of({"network_map_small_3n.npy": b"x"}),
        b"data: {model: 1",
        b"a: *b",
        b"- 1",
    ],
)
def test_maps_and_training_configurations_of_any_kind(option: str, data: bytes, tmp_path: Path, capsys) -> None:
    (tmp_path / "given").write_bytes(data)
    case = GOLDEN / "brain_semantoks" / "pretrain_small"
    constructor = json.loads((case / "config.json").read_text())["constructor"]
    (tmp_path / "constructor.json").write_text(json.dumps(constructor))
    words = {"--checkpoint": case / "checkpoint.pth", "--config": tmp_path / "constructor.json"}
    words |= {"--network-map": case / "network_mapping.npz", "--output": tmp_path / "converted"}
    words[option] = tmp_path / "given"
    assert convert_brain_semantoks.main([str(word) for pair in words.items() for word in pair]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "given") in line or "configuration" in line
    assert not (tmp_path / "converted").exists()


# --- safe loading ---


def test_what_runs_keep_beside_their_weights_is_read_as_plain_data(tmp_path: Path) -> None:
    """Arguments and numpy numbers, as training programs save them with `weights_only=False` in mind."""
    content = {
        "model": {"weight": torch.arange(3.0)},
        "args": argparse.Namespace(lr=0.1, data_path="x"),
        "val_loss": np.float64(0.1),
        "best": np.float32(-2.5),
        "epoch": np.int64(-3),
        "done": np.bool_(True),
        "big": np.array(7, ">i2")[()],
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    found = read_torch_checkpoint(tmp_path / "checkpoint.pth")
    assert found["args"] == content["args"]
    assert {key: found[key] for key in ("val_loss", "best", "epoch", "done", "big")} == {
        "val_loss": 0.1,
        "best": -2.5,
        "epoch": -3,
        "done": True,
        "big": 7,
    }
    assert all(type(found[key]) in (int, float, bool) for key in ("val_loss", "best", "epoch", "done", "big"))


class _Calls:
    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "content",
    [
        _Calls(np._core.multiarray.scalar, np.dtype("O"), b"x"),
        _Calls(np._core.multiarray.scalar, np.dtype("f8"), b"1234567"),
        _Calls(np._core.multiarray.scalar, np.dtype("f8"), "a text"),
        _Calls(np._core.multiarray.scalar, np.dtype([("a", "f8")]), bytes(8)),
        _Calls(np._core.multiarray.scalar, "f8", bytes(8)),
        np.arange(3.0),
        np.datetime64("2026-01-01"),
    ],
)
def test_other_things_of_numpy_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "content": content}, tmp_path / "checkpoint.pth")
    with pytest.raises(ConversionError, match=r"checkpoint\.pth") as caught:
        read_torch_checkpoint(tmp_path / "checkpoint.pth")
    assert not any(words in str(caught.value) for words in UNSAFE)


def test_wrappers_of_parallel_training_are_taken_off() -> None:
    bare = {"a.weight": 1, "b.module_2.bias": 2}
    wrapped = {"module.a.weight": 1, "_orig_mod.b.module_2.bias": 2}
    for content in (bare, wrapped, {"model": wrapped, "epoch": 3}, {"state": {}, "model": wrapped}):
        assert weights_of(content, "model") == bare
    with pytest.raises(ConversionError, match=r"both a and module\.a"):
        weights_of({"a": 1, "module.a": 2})


def test_a_converter_of_several_components_and_tables(tmp_path: Path, capsys) -> None:
    """What a family of several networks needs: a choice, further checkpoints, tables with and without names."""

    def convert_component(
        checkpoint: GivenFile,
        component: str,
        structure: GivenFile | None = None,
        gradients: GivenFile | None = None,
        divide: bool = False,
    ) -> ConvertedCheckpoint:
        weights = weights_of(checkpoint.content, "model")
        assert component == "fused"
        assert structure is not None
        assert gradients is not None
        config = bt.load_config("brainlm-tiny", coordinates_source="mine" if divide else None)
        body = {**weights, "layernorm.bias": tensor_of(structure.content, "bias")}
        body["coordinates"] = torch.from_numpy(gradients.content)
        key_map = KeyMap([(r"(?P<rest>(?!dead).*)", r"\g<rest>")], dropped=[(r"(?P<part>dead)\..*", "never used")])
        converted, report = key_map.convert(body)
        check_against_model(bt.BrainLMModel, config, converted)
        assert count_layers(converted, "layers.") == config.num_hidden_layers
        return ConvertedCheckpoint(bt.BrainLMModel, config, converted, report)

    converter = Converter(
        "made up",
        (
            InputFile("checkpoint", "checkpoint", "weights", "weights"),
            InputFile("structure", "checkpoint", "weights", "of the other network"),
            InputFile("gradients", "named table", "a table with names of rows and columns", "of the authors"),
        ),
        {"component": {"choices": ("single", "fused")}, "divide": {"action": "store_true"}},
        convert_component,
    )
    model = bt.BrainLMModel(bt.load_config("brainlm-tiny"))
    weights = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save(
        {"model": {**weights, "module.dead.a": torch.zeros(1), "module.dead.b": torch.zeros(1)}}, tmp_path / "a.pth"
    )
    torch.save({"bias": torch.full((32,), 3.0)}, tmp_path / "b.pth")
    table = np.arange(36.0).reshape(12, 3)
    rows = [f"parcel{number},{','.join(map(str, row))}" for number, row in enumerate(table)]
    (tmp_path / "c.csv").write_text("\n".join([",x,y,z", *rows]))
    done = convert_files(
        converter,
        checkpoint=tmp_path / "a.pth",
        structure=tmp_path / "b.pth",
        gradients=tmp_path / "c.csv",
        component="fused",
        divide=True,
    )
    assert done.converted.report.dropped == {"dead (2 tensors)": "never used"}
    assert "2 dropped" in done.converted.report.summary()
    assert done.model.config.coordinates_source == "mine"
    assert torch.equal(done.model.layernorm.bias, torch.full((32,), 3.0))
    np.testing.assert_array_equal(done.model.coordinates.numpy(), table)
    assert isinstance(done.extractor, bt.ROISeriesFeatureExtractor)


def test_an_old_pytorch_is_refused_before_the_file_is_opened(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("the file was read"))
    (tmp_path / "weights.bin").write_bytes(_saved({}))
    with pytest.raises(ConversionError, match=r"CVE-2026-24747.*2\.10"):
        read_torch_checkpoint(tmp_path / "weights.bin")


def test_there_is_no_second_try_without_protection(monkeypatch, tmp_path: Path) -> None:
    calls = []

    def load(*args: Any, **options: Any) -> Any:
        calls.append(options["weights_only"])
        raise pickle.UnpicklingError("Weights only load failed: do `weights_only=False` if you trust the source")

    monkeypatch.setattr(torch, "load", load)
    (tmp_path / "weights.bin").write_bytes(b"anything")
    with pytest.raises(ConversionError) as caught:
        read_torch_checkpoint(tmp_path / "weights.bin")
    assert calls == [True]
    assert not any(words in str(caught.value) for words in UNSAFE)
    assert caught.value.__suppress_context__


def test_a_folder_in_place_of_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConversionError, match=r"config\.json"):
        read_model_folder(tmp_path, "a folder")
    with pytest.raises(ConversionError, match=r"config\.json"):
        read_torch_checkpoint(tmp_path / "config.json")


# --- how a converter ends ---


def test_a_full_disk_and_a_signal_are_one_line(authors: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    resource = pytest.importorskip("resource", reason="a limit on the size of files stands in for a full disk")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert convert(authors, tmp_path / "converted") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (line,) = capsys.readouterr().err.splitlines()
    assert "disk is full" in line
    assert str(tmp_path / "converted") in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["authors"]

    def interrupted(*args: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("brain_transformers.conversion.convert.convert", interrupted)
    assert convert(authors, tmp_path / "converted") == 143
    assert "terminated" in capsys.readouterr().err


# --- one command for all, and the same model for all ---


def test_the_command_writes_what_the_script_writes(authors: Path, tmp_path: Path, capsys) -> None:
    assert convert(authors, tmp_path / "script" / "model") == 0
    printed = capsys.readouterr().out
    words = ["--checkpoint", str(authors), "--output", str(tmp_path / "command" / "model")]
    assert main(["convert", "brainlm", *words]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == printed.splitlines()[:-1]
    assert contents(tmp_path / "command") == contents(tmp_path / "script")
    assert main(["convert", "brainlm", "--checkpoint", str(tmp_path), *words[2:]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("brain-transformers convert: error: ")
    with pytest.raises(SystemExit):
        main(["convert", "brain_jepa", "--help"])
    assert "--gradient" in capsys.readouterr().out


def test_the_fingerprint_is_printed_and_written_and_that_of_the_weights(authors: Path, tmp_path: Path, capsys) -> None:
    found = []
    for name in ("first", "second", "changed"):
        if name == "changed":
            weights = torch.load(authors / "pytorch_model.bin", weights_only=True)
            weights["vit.layernorm.bias"][0] += 1e-6
            torch.save(weights, authors / "pytorch_model.bin")
        assert convert(authors, tmp_path / name) == 0
        found.append(fingerprint(load_file(tmp_path / name / "model.safetensors")))
        assert f"fingerprint {found[-1]}" in capsys.readouterr().out
        assert f"`{found[-1]}`" in (tmp_path / name / "README.md").read_text()
    assert found[0] == found[1] != found[2]


# --- what the card says ---


def test_a_card_says_no_source_that_nobody_stated(authors: Path, tmp_path: Path, monkeypatch) -> None:
    # A stand-in with the sizes of a published model, which is all that its card could go by.
    monkeypatch.setattr(model_card, "name_by_size", lambda config: "brainlm-13m")
    assert convert(authors, tmp_path / "converted") == 0
    card = RepoCard.load(tmp_path / "converted" / "README.md")
    assert card.data.license == "unknown"
    assert card.data.to_dict().get("base_model") is None
    rows = {line.split("|")[1].strip(): line for line in card.content.splitlines() if line.startswith("|")}
    assert "unknown: whoever converted it did not say" in rows["source of the weights"]
    assert "ask the source" in rows["licence of the weights"]
    # If it is the published file, its licence must be known to whoever reads the card.
    assert "cc-by-nc-nd-4.0" in rows["licence of the weights"]
    assert hashlib.sha256((authors / "pytorch_model.bin").read_bytes()).hexdigest() in card.content

    assert convert(authors, tmp_path / "stated", "--source", "https://huggingface.co/vandijklab/brainlm") == 0
    card = RepoCard.load(tmp_path / "stated" / "README.md")
    assert card.data.license == "cc-by-nc-nd-4.0"
    assert card.data.to_dict()["base_model"] == "vandijklab/brainlm"
    assert "as stated by whoever converted it" in card.content
    assert "non-commercial" in card.content

    assert convert(authors, tmp_path / "other", "--source", "lab/another") == 0
    card = RepoCard.load(tmp_path / "other" / "README.md")
    assert (card.data.license, card.data.to_dict()["base_model"]) == ("unknown", "lab/another")


def test_published_sizes_are_told_from_others() -> None:
    assert name_by_size(bt.load_config("brainlm-650m")) == "brainlm-650m"
    assert name_by_size(bt.load_config("brainlm-650m", hidden_size=1296)) is None
