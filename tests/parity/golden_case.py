"""A folder of numbers from a model's authors, and the account of which of them were compared."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open


def find_cases(root: Path) -> list[Path]:
    """Every folder below `root` with a `case.json`, sorted."""
    return sorted(path.parent for path in root.rglob("case.json"))


@dataclass
class GoldenCase:
    """One case: tolerances, tensors, and the names that were used as input or compared.

    A case fails if a tensor or a fact is left that nobody asked for, so that a new output is never passed over.
    """

    folder: Path
    meta: dict[str, Any] = field(init=False)
    tensors: dict[str, torch.Tensor] = field(init=False, default_factory=dict)
    seen: set[str] = field(init=False, default_factory=set)
    compared: set[str] = field(init=False, default_factory=set)
    failures: list[str] = field(init=False, default_factory=list)
    left_out: dict[str, str] = field(init=False, default_factory=dict)
    n_checks: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.meta = self.json("case.json")
        path = self.folder / "tensors.safetensors"
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)

    @property
    def kind(self) -> str:
        return self.meta["kind"]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def json(self, name: str) -> Any:
        """Content of a JSON file of the case."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def has(self, name: str) -> bool:
        return name in self.tensors

    def names(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Names of tensors that start and end so."""
        return [name for name in self.tensors if name.startswith(prefix) and name.endswith(suffix)]

    def take(self, name: str) -> torch.Tensor:
        """An input: counts as used."""
        self.seen.add(name)
        return self.tensors[name]

    def leave_out(self, name: str, why: str) -> None:
        """A tensor of which ours has no counterpart: said in the report, never in silence."""
        self.seen.add(name)
        self.left_out[name] = why

    def compare(self, name: str, actual: Any, *, atol: float | None = None, rtol: float | None = None) -> None:
        """Compare with an expected tensor: exact for integers and masks, else |a - b| <= atol + rtol |b|."""
        self.seen.add(name)
        self.compared.add(name)
        self.check(name, actual, self.tensors[name], atol=atol, rtol=rtol)

    def check(
        self, name: str, actual: Any, expected: Any, *, atol: float | None = None, rtol: float | None = None
    ) -> None:
        """Compare any two arrays or numbers under a name for the report."""
        self.n_checks += 1
        actual = actual.detach() if isinstance(actual, torch.Tensor) else torch.as_tensor(np.asarray(actual))
        expected = torch.as_tensor(np.asarray(expected) if not isinstance(expected, torch.Tensor) else expected)
        if actual.shape != expected.shape:
            self.failures.append(f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
            return
        if not expected.is_floating_point():
            wrong = int((actual.double() != expected.double()).sum())  # 1.4 is not 1
            if wrong:
                self.failures.append(f"{name}: {wrong} of {expected.numel()} entries differ")
            return
        atol = self.meta["atol"] if atol is None else atol
        rtol = self.meta["rtol"] if rtol is None else rtol
        if expected.numel() == 0:
            return
        error = (actual.double() - expected.double()).abs()
        excess = error - (atol + rtol * expected.double().abs())
        if not bool(torch.isfinite(actual.double()).all()) or float(excess.detach().max()) > 0:
            self.failures.append(
                f"{name}: largest error {float(error.detach().max()):.3g}, allowed {atol:g} + {rtol:g} |expected|"
            )

    def compare_gradient(self, name: str, actual: torch.Tensor | None, *, rtol: float | None = None) -> None:
        """Compare a gradient: max |a - b| <= grad_rtol x max |b|."""
        self.seen.add(name)
        self.compared.add(name)
        expected = self.tensors[name].double()
        if actual is None:
            self.failures.append(f"{name}: no gradient")
            return
        if actual.shape != expected.shape:
            self.failures.append(f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
            return
        allowed = (self.meta["grad_rtol"] if rtol is None else rtol) * float(expected.abs().max())
        error = float((actual.detach().double() - expected).abs().max())
        if not error <= allowed:
            self.failures.append(f"{name}: largest error {error:.3g}, allowed {allowed:.3g}")

    def finish(self) -> None:
        """Fail with every difference, and with every tensor that nothing was compared with."""
        left = sorted(set(self.tensors) - self.seen)
        if left:
            self.failures.append(f"unknown outputs, not compared with anything: {', '.join(left)}")
        assert not self.failures, f"{self.folder.name} ({self.kind}):\n  " + "\n  ".join(self.failures)
