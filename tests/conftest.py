"""Settings for the whole test suite: no network, quiet libraries, the `--golden` option."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Whatever weights the user has fetched, tests begin without any.
os.environ["BRAIN_TRANSFORMERS_CACHE"] = str(Path(tempfile.gettempdir(), f"brain-transformers-tests-{os.getpid()}"))

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_GOLDEN = REPOSITORY.parent / "shared" / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        type=Path,
        default=None,
        help="folder of golden cases for tests/parity (default: ../shared/golden if present, else tests/golden)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source checkout."""
    return REPOSITORY
