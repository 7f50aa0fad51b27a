"""Damage to files, drawn from a seeded generator: the same seed gives the same bytes on every machine.

`mutate` knows the formats that the package reads. Containers are opened where they can be (gzip, zip, JSON), so that
the damage reaches what lies inside; every format also gets its bytes damaged from outside.
"""

import copy
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

# What stands in the file that nobody may read. Its bytes must never come back, in a result or in a message.
CANARY = b"CANARY-7f3a2c91."

_TEXT = (".csv", ".tsv", ".dat", ".txt", ".json", ".md", ".py")
_NUMBERS = (
    "99999999999999999999", "-99999999999999999999999", "1e999", "-1e999", "1e-999", "nan", "NaN", "inf", "-Infinity",
    "n/a", "NA", "", " ", "0x1F", "1_000", "1,5", "1.2.3", "--1", "+", "٣", "½", "1e", "0", "-0.0", "true", "null",
    '"', "'", "=1+1", "\x00", "a" * 5000, "9" * 5000, "[", "\ufeff1", "\u2028", "\x85", "1\r2",
)  # fmt: skip
_SIZES = (0, 1, -1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1)


def _pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _place(rng: np.random.Generator, length: int) -> int:
    """A place in `length` bytes; headers, where sizes are claimed, are hit as often as all the rest."""
    return int(rng.integers(0, max(1, min(length, 512)) if rng.random() < 0.5 else max(1, length)))


# --- bytes ---


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bytes are others."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if changed:
            changed[_place(rng, len(changed))] = int(rng.integers(256))
    return bytes(changed)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    """The end is missing."""
    return data[: _place(rng, len(data))]


def empty(data: bytes, rng: np.random.Generator) -> bytes:
    """Nothing is left, or a few bytes."""
    return _pick(rng, (b"", b"\x00", b"\n", data[:1], b"\x00" * 64, b"\xff" * 64))


def claim(data: bytes, rng: np.random.Generator) -> bytes:
    """A size in the bytes is another, often one that no memory holds."""
    changed = bytearray(data)
    width = _pick(rng, (2, 4, 4, 8, 8))
    value = int(_pick(rng, _SIZES)) & (2 ** (8 * width) - 1)
    at = _place(rng, len(changed))
    if rng.random() < 0.7:
        at -= at % width
    changed[at : at + width] = value.to_bytes(width, _pick(rng, ("little", "little", "big")))
    return bytes(changed)


def drop(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece from the middle is missing."""
    at = _place(rng, len(data))
    return data[:at] + data[at + int(rng.integers(1, 200)) :]


def repeat(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece stands twice."""
    at = _place(rng, len(data))
    end = at + int(rng.integers(1, 400))
    return data[:end] + data[at:end] + data[end:]


def swap(data: bytes, rng: np.random.Generator) -> bytes:
    """Two pieces have changed places."""
    size = int(rng.integers(1, 200))
    first, second = sorted((_place(rng, len(data)), _place(rng, len(data))))
    if second < first + size:
        return flip(data, rng)
    return (
        data[:first] + data[second : second + size] + data[first + size : second] + data[first:second][:size]
        + data[second + size :]
    )  # fmt: skip


def blank(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece is zeros, ones or noise, as after a bad copy."""
    at, size = _place(rng, len(data)), int(rng.integers(1, 600))
    return data[:at] + _pick(rng, (bytes(size), b"\xff" * size, rng.bytes(size))) + data[at + size :]


def append(data: bytes, rng: np.random.Generator) -> bytes:
    """Something follows that does not belong to the file."""
    return data + _pick(rng, (b"\x00", b"\n", b"trailing", data[:500], rng.bytes(300)))


BYTES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    flip, flip, truncate, empty, claim, claim, drop, repeat, swap, blank, append,
)  # fmt: skip


# --- text ---


def mutate_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage that stays text: nonsense for numbers, lost cells and lines, other encodings, nesting."""
    text = data.decode("utf-8", errors="replace")
    kind = int(rng.integers(9))
    lines = text.splitlines()
    if kind <= 2:
        numbers = list(re.finditer(r"[-+]?\d[\d.eE+-]*", text))
        if numbers:
            match = numbers[int(rng.integers(len(numbers)))]
            return (text[: match.start()] + _pick(rng, _NUMBERS) + text[match.end() :]).encode("utf-8", "replace")
        return data + _pick(rng, _NUMBERS).encode("utf-8", "replace")
    if kind == 3 and lines:
        at = int(rng.integers(len(lines)))
        how = int(rng.integers(5))
        lines[at : at + 1] = (
            [], [lines[at], lines[at]], ["", lines[at]], [lines[at].replace("\t", ",").replace(",", ";")],
            [lines[at][: len(lines[at]) // 2]],
        )[how]  # fmt: skip
        return "\n".join(lines).encode()
    if kind == 4:
        return _pick(rng, (b"\xef\xbb\xbf" + data, text.encode("utf-16"), text.encode("utf-32"),
                           data + b"\xff\xfe\xe9", text.replace("\n", "\r").encode(),
                           text.replace("\n", "\x00").encode()))  # fmt: skip
    if kind == 5:
        at = _place(rng, len(data))
        return (
            data[:at] + _pick(rng, (b"\x00" * 3, b"\x1a", b"\xc3\x28", b"\xed\xa0\x80", b'"', b"'", b"\\")) + data[at:]
        )
    if kind == 6:
        return _pick(
            rng, ("[" * 100_000, '{"a":' * 50_000, "(" * 5000, " " * 100_000, "\n" * 1000, "\t" * 10_000)
        ).encode()
    if kind == 7 and lines:
        first = lines[0]
        cells = re.split(r"[\t, ]", first)
        what = _pick(rng, (["x"] * len(cells), [str(n) for n in range(len(cells))],
                           [f"{n + 2001}.0" for n in range(len(cells))], [""] * len(cells), cells[::-1]))  # fmt: skip
        return "\n".join([("\t" if "\t" in first else ",").join(what), *lines[int(rng.integers(2)) :]]).encode()
    return _pick(rng, BYTES)(data, rng)


# --- JSON ---

_VALUES = (
    None, True, False, 0, -1, 1, 0.5, -0.0, float("nan"), float("inf"), float("-inf"), 2**31, 2**63, -(2**63), 10**30,
    1e-300, 1e300, "", "n/a", "720", "../../../../etc/passwd", "a" * 3000, [], {}, [None], [2**31], [0.1, "x"],
    {"a": 1}, [[[]]], [float("nan")] * 3, "\ud800", "torch.float64", "gelu_new", "__import__", True,
)  # fmt: skip
# Keys that have made libraries run code or read other files.
_HOSTILE = (
    ("_attn_implementation_internal", "evil/repository"), ("attn_implementation", "evil/repository"),
    ("trust_remote_code", True), ("auto_map", {"AutoConfig": "evil--x.Y", "AutoModel": "shim.Evil"}),
    ("_name_or_path", "CANARY_PATH"), ("pretrained_model_name_or_path", "CANARY_PATH"),
    ("custom_pipelines", {"x": {"impl": "evil.Evil"}}), ("quantization_config", {"quant_method": "bitsandbytes"}),
    ("quantization_config", {"quant_method": "x" * 10}), ("torch_dtype", "evil"), ("dtype", "float8_e4m3fn"),
    ("model_type", "brainlm"), ("model_type", None), ("architectures", ["Evil"]), ("architectures", "x"),
    ("transformers_version", [1]), ("feature_extractor_type", "os.system"), ("processor_class", "os.system"),
    ("id2label", {"x": 1}), ("id2label", "x"), ("num_labels", -1), ("num_labels", 2**40), ("problem_type", "evil"),
    ("__class__", "x"), ("__dict__", {}), ("from_pretrained", 1), ("to_dict", 1), ("save_pretrained", "x"),
    ("base_model_prefix", "x"), ("_auto_class", "x"), ("self", 1), ("weight_map", {"x": "../../CANARY_PATH"}),
)  # fmt: skip


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key in value:
            found += _paths(value[key], (*path, key))
    elif isinstance(value, list):
        for number in range(min(len(value), 3)):
            found += _paths(value[number], (*path, number))
    return found


def mutate_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage that stays JSON (or nearly): other types and sizes of values, missing and hostile keys."""
    try:
        content = json.loads(data)
    except ValueError:
        return mutate_text(data, rng)
    if rng.random() < 0.1:
        return json.dumps(_pick(rng, _VALUES)).encode()
    content = copy.deepcopy(content)
    for _ in range(int(rng.integers(1, 4))):
        paths = _paths(content)
        if isinstance(content, dict) and (not paths or rng.random() < 0.25):
            key, value = _pick(rng, _HOSTILE)
            content[key] = value
            continue
        if not paths:
            break
        *parents, last = _pick(rng, paths)
        holder = content
        for step in parents:
            holder = holder[step]
        old = holder[last]
        kind = int(rng.integers(6))
        if kind == 0:
            del holder[last]
        elif kind == 1 and isinstance(old, (int, float)) and not isinstance(old, bool):
            holder[last] = _pick(rng, (-old, old * 10, old + 1, old / 2, str(old), [old], old * 10**9))
        elif kind == 2 and isinstance(old, list):
            holder[last] = _pick(rng, (old[::-1], old + old, old[:-1], [old], dict(enumerate(old))))
        elif kind == 3 and isinstance(holder, dict):
            holder[str(last) + "_"] = holder.pop(last)
        else:
            holder[last] = _pick(rng, _VALUES)
    return json.dumps(content).encode()


# --- containers ---


def _bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b"0" * 2**20
    return b"".join([packer.compress(block) for _ in range(megabytes)]) + packer.flush()


def mutate_gzip(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """Damage inside of the stream, packed again; sometimes a stream that inflates to a thousand times its size."""
    kind = rng.random()
    if kind < 0.02:
        return _bomb(int(_pick(rng, (64, 700))))
    if kind < 0.3:
        return _pick(rng, BYTES)(data, rng)
    return gzip.compress(mutate(name[: -len(".gz")], gzip.decompress(data), rng), 1, mtime=0)


def mutate_zip(data: bytes, rng: np.random.Generator) -> bytes:
    """One member damaged, and the archive written again with right checksums."""
    if rng.random() < 0.35:
        return _pick(rng, BYTES)(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(item.filename, archive.read(item)) for item in archive.infolist()]
    at = int(rng.integers(len(members)))
    name, content = members[at]
    kind = int(rng.integers(8))
    if kind == 0:
        del members[at]
    elif kind == 1:
        members.append((name, _pick(rng, BYTES)(content, rng)))
    elif kind == 2:
        members[at] = (_pick(rng, ("../../" + name, "", "x" * 300, name + "/", "\x00.npy", "a.pkl")), content)
    elif kind == 3:
        members.append(("zeros.npy", _npy_header("<f4", (400, 10**6)) + bytes(40_000_000)))
    else:
        members[at] = (name, mutate(name, content, rng))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            # Two members of one name are a warning of zipfile and an input of ours.
            archive.writestr(zipfile.ZipInfo(name or "_"), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _npy_header(dtype: str, shape: Any, more: str = "") -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, {more}}}".encode()
    text += b" " * (64 - (len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + (len(text) & 0xFFFF).to_bytes(2, "little") + text


def mutate_npy(data: bytes, rng: np.random.Generator) -> bytes:
    """Headers that claim what the file does not hold; else bytes."""
    if rng.random() < 0.5 or len(data) < 128:
        return _pick(rng, BYTES)(data, rng)
    dtype = _pick(rng, ("<f4", "<f8", "|O", "<U9", "|S5", "<c16", "<M8[s]", "|V8", [("a", "<f4")], "<f2", ">f8", "|b1",
                        "|u1", "<i8", "evil", "<U99999999"))  # fmt: skip
    shape = _pick(rng, ((400, 10**12), (10**18,), (2**63, 2), (0, 5), (5, 0), (), (1,), (-1, 5), (12, 40), (40, 12),
                        (12, 12), (12, 40, 1), (2**31, 2**31), "x", (1.5, 2), (12, 40) * 20, (12, None)))  # fmt: skip
    return _npy_header(dtype, shape, _pick(rng, ("", "", "", "'x': 1", "(" * 500))) + data[128:]


def mutate_safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    """Another header over the same tensors; else bytes."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.4 or not 0 < size < len(data):
        return _pick(rng, BYTES)(data, rng)
    header = mutate_json(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def mutate(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    """The file `name` with damage that its format can have.

    Args:
        name: name of the file; its suffix says what is inside.
        data: the whole file.
        rng: where the damage is drawn from.
    """
    name = name.lower()
    if rng.random() < 0.03:
        return empty(data, rng)
    if name.endswith(".gz"):
        return mutate_gzip(name, data, rng)
    if data[:4] == b"PK\x03\x04" and name.endswith((".npz", ".zip", ".bin", ".pth", ".pt", ".tar")):
        try:
            return mutate_zip(data, rng)
        except zipfile.BadZipFile:  # it is damaged already, by a mutation before this one
            return _pick(rng, BYTES)(data, rng)
    if name.endswith(".npy"):
        return mutate_npy(data, rng)
    if name.endswith(".safetensors"):
        return mutate_safetensors(data, rng)
    if name.endswith(".json"):
        return mutate_json(data, rng) if rng.random() < 0.7 else mutate_text(data, rng)
    if name.endswith(_TEXT):
        return mutate_text(data, rng)
    return _pick(rng, BYTES)(data, rng)
