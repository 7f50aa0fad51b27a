"""Import an optional dependency where it is used, or say which extra brings it."""

import importlib
from types import ModuleType


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import `module` and return it.

    Args:
        module: dotted name, such as `"matplotlib.pyplot"`.
        extra: the extra of this package that installs it, such as `"plot"`.
        purpose: what it is needed for, in words that fit after "needed for".

    Raises:
        ImportError: if the module is not installed; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f"`{name}` is needed for {purpose} and could not be imported ({error}). "
            f'Install it with: pip install "brain-transformers[{extra}]"'
        ) from error
