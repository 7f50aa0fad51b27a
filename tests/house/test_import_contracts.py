"""Imports go one way, and the parts that everybody loads import little."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "brain_transformers"
ALLOWED_OUTSIDE = {"torch", "transformers", "numpy", "huggingface_hub", "safetensors"}
# Kernels need their compiler, which torch's CUDA builds bring; this module is loaded on GPUs only.
KERNELS = {"layers/selective_scan/triton_scan.py": {"triton"}}


def imported_modules(path: Path, source_root: Path) -> set[str]:
    """Dotted names of everything that a file imports anywhere in it, relative imports resolved."""
    package = path.relative_to(source_root).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{prefix}.{alias.name}" for alias in node.names}
    return found


def test_imports_go_one_way(repository: Path) -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    assert command, 'lint-imports is missing; install the extra "test"'
    result = subprocess.run(
        [command, "--no-cache"], cwd=repository, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize("folder", ["models", "layers", "atlases"])
def test_models_and_layers_import_only_the_base_install(folder: str, repository: Path) -> None:
    source = repository / "src"
    files = sorted((source / PACKAGE / folder).rglob("*.py"))
    assert files
    own = tuple(f"{PACKAGE}.{name}" for name in ("models", "layers", "atlases", "optional", "files"))
    wrong = []
    for path in files:
        for name in imported_modules(path, source):
            top = name.partition(".")[0]
            known = ({"numpy"} if folder == "atlases" else ALLOWED_OUTSIDE) | KERNELS.get(
                str(path.relative_to(source / PACKAGE)), set()
            )
            allowed = top in known or top in sys.stdlib_module_names or name.startswith(own)
            if not allowed:
                wrong.append(f"{path.relative_to(source)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_layers_do_not_know_the_models(repository: Path) -> None:
    source = repository / "src"
    for path in (source / PACKAGE / "layers").rglob("*.py"):
        assert not [name for name in imported_modules(path, source) if name.startswith(f"{PACKAGE}.models")], path


def test_no_module_is_a_drawer_for_leftovers(repository: Path) -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    for folder in ("src", "conversion", "benchmarks", "model_cards", "examples"):
        for path in (repository / folder).rglob("*"):
            assert path.stem not in drawers, f"{path}: a thing lives with what it serves"


def test_every_registered_family_has_its_folder(repository: Path) -> None:
    from brain_transformers.families import FAMILIES

    models = repository / "src" / PACKAGE / "models"
    folders = {path.name for path in models.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {family.folder for family in FAMILIES}
    for family in FAMILIES:
        modules = {path.stem for path in (models / family.folder).glob("*.py")} - {"__init__"}
        assert {"family", f"configuration_{family.folder}", f"modeling_{family.folder}"} <= modules
        assert all(name.endswith(f"_{family.folder}") for name in modules - {"family"}), modules


def test_every_public_name_resolves() -> None:
    import brain_transformers as bt

    for name in bt.__all__:
        assert getattr(bt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'BrainLMModle'"):
        _ = bt.BrainLMModle
