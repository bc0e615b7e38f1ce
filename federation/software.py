"""Which release of this software runs."""

from importlib.metadata import version

DISTRIBUTION = "iodeep-federation"


def software() -> str:
    """The release, as ``0.1.0``."""
    return version(DISTRIBUTION)
