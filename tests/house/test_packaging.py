"""What a user installs: the wheel holds the package and its assets, and works where the checkout is not."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fresh_process import run_python

import brain_transformers as bt


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = Path(__file__).resolve().parents[2]
    output = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(output)],
        cwd=repository,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return next(output.glob("*.whl"))


def test_wheel_holds_the_package_with_its_assets_and_nothing_else(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = repository / "src"
    assets = {path.relative_to(source).as_posix() for path in (source / "brain_transformers" / "assets").iterdir()}
    modules = {path.relative_to(source).as_posix() for path in (source / "brain_transformers").rglob("*.py")}
    assert assets
    assert names >= assets | modules
    assert all(name.startswith("brain_transformers/") for name in names)
    assert f"-{bt.__version__}-" in wheel.name


def test_installed_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    result = run_python(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import brain_transformers as bt
        from brain_transformers.processing.roi_orders import roi_coordinates, roi_labels
        assert bt.__file__.startswith(sys.argv[1]), bt.__file__
        print(len(roi_labels("schaefer400-17net")), roi_coordinates("aal2-94").shape, len(bt.list_models()))
        """,
        target,
    )
    assert result.stdout.split() == ["400", "(94,", "3)", str(len(bt.list_models()))]


def test_versions_agree(repository: Path) -> None:
    assert f"version: {bt.__version__}\n" in (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {bt.__version__}" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_pin_what_the_package_asks_for(repository: Path) -> None:
    """Each direct dependency is pinned, so that two runs of the tests use the same versions."""
    from importlib.metadata import version

    from packaging.requirements import Requirement

    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        name: asked for name, asked in project["optional-dependencies"].items() if name not in ("flash", "mamba")
    }
    asked = [
        Requirement(line) for line in [*project["dependencies"], *(r for lines in extras.values() for r in lines)]
    ]
    pins = {}
    for line in (repository / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, pin = line.split("==")
            pins[name.lower().replace("_", "-")] = pin
    for requirement in asked:
        name = requirement.name.lower().replace("_", "-")
        if name != "brain-transformers":
            assert name in pins, f"{name} is not in constraints.txt"
            assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} is outside {requirement}"
    assert pins["torch"] == version("torch").partition("+")[0] or "torch" in pins


def test_no_file_names_a_machine_or_a_package_host(repository: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    hosts = ["py" + "pi.org", "python" + "hosted.org", "find-" + "links", "extra-index" + "-url"]
    folders = ["/" + "tmp/", "/" + "root/", "/home" + "/", "/" + "work/"]
    suffixes = {".py", ".md", ".toml", ".txt", ".cff", ".json", ""}
    wrong = []
    for name in filter(None, tracked):
        path = repository / name
        if path.suffix in suffixes and path.is_file() and path.stat().st_size < 1_000_000:
            text = path.read_text(encoding="utf-8", errors="replace")
            wrong += [f"{name}: {word}" for word in [*hosts, *folders] if word in text]
    assert not wrong, "\n".join(wrong)
