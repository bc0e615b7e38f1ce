"""Flower's code with some of its functions replaced: nothing that was sent is unpacked or loaded.

The functions are private to Flower. Where one has moved, nothing runs.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from flwr.supercore.version import package_version

from federation.errors import ConfigError


def replace(module: str, functions: Mapping[str, Any]) -> None:
    """Put ``functions`` in the place of those that a module of Flower's calls by these names.

    Raises :class:`ConfigError` where it has no function of such a name.
    """
    theirs = import_module(module)
    missing = [name for name in functions if not callable(getattr(theirs, name, None))]
    if missing:
        raise ConfigError(
            f"Flower {package_version} has no {missing[0]} in {module}, so code that is sent could "
            "not be kept from running, and nothing runs; install the versions in constraints.txt"
        )
    for name, function in functions.items():
        setattr(theirs, name, function)


def refuse_to_install(*_: object, **__: object) -> Any:
    """In place of what installs the packages that a bundle asks for."""
    raise ConfigError("a bundle asked for packages to be installed, and none are here")
