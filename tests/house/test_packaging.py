"""What a user installs: the wheel holds the package and its assets, and works where the checkout is not."""

import ast
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
        from brain_transformers.atlases.roi_orders import roi_coordinates, roi_labels
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
        name: asked
        for name, asked in project["optional-dependencies"].items()
        if name not in ("flash", "mamba", "storage")
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


# Requirements that no import of ours shows: what brings them into play.
SERVES = {
    "jinja2": "huggingface_hub writes cards with it",
    "flash-attn": "transformers takes it for attn_implementation",
}
# Triton comes with torch where there is a GPU for it; it is looked for before its kernels are imported.
DISTRIBUTIONS = {"yaml": "pyyaml", "sklearn": "scikit-learn", "mamba_ssm": "mamba-ssm", "triton": "torch"}


def imports_of(path: Path) -> tuple[set[str], set[tuple[str, str]]]:
    """Modules that a file imports and cannot do without, and those that it asks for by `require` with their extra."""
    plain: set[str] = set()
    asked: set[tuple[str, str]] = set()

    def visit(node: ast.AST, optional: bool = False) -> None:
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Try) and "ImportError" in ast.unparse(node.handlers):
            optional = True
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            children = list(node.orelse)
        elif isinstance(node, ast.Import) and not optional:
            plain.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and not optional:
            plain.add(str(node.module))
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "require"
            and isinstance(node.args[0], ast.Constant)
        ):
            (extra,) = (ast.literal_eval(word.value) for word in node.keywords if word.arg == "extra")
            asked.add((node.args[0].value.partition(".")[0], extra))
        for child in children:
            visit(child, optional)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name.partition(".")[0] for name in plain} - sys.stdlib_module_names - {"brain_transformers"}, asked


def test_every_import_is_declared_and_every_requirement_used(repository: Path) -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {"": project["dependencies"], **project["optional-dependencies"]}
    names = {extra: {Requirement(line).name.lower() for line in lines} for extra, lines in declared.items()}

    def distribution(module: str) -> str:
        return DISTRIBUTIONS.get(module, module)

    used: dict[str, set[str]] = {extra: set() for extra in names}
    wrong = []
    for path in (repository / "src").rglob("*.py"):
        plain, asked = imports_of(path)
        for module in plain:
            # Also what is imported late, unless the file asks for it with its extra.
            extras = {extra for name, extra in asked if name == module} or {""}
            used[""].update({distribution(module)} if extras == {""} else ())
            if "" in extras and distribution(module) not in names[""]:
                wrong.append(f"{path.name} imports {module}, which the base install does not bring")
        for module, extra in asked:
            used[extra].add(distribution(module))
            if distribution(module) not in names[extra] | names[""]:
                wrong.append(f"{path.name} asks for {module} of the extra {extra}, which does not bring it")
    for extra in ("", "train", "data", "eval", "plot", "flash", "mamba"):
        wrong += [
            f"nothing uses {name} of {extra or 'the base install'}"
            for name in names[extra] - used[extra] - set(SERVES)
        ]
    assert not wrong, "\n".join(sorted(wrong))


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
