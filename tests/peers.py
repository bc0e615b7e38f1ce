"""What tests need and may not find: programs of others, and real images."""

import os
import shutil
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def peer(program: str) -> str:
    """The path of another's program; skips without it, and fails where peers are required."""
    path = shutil.which(program)
    if path is None:
        _lack(f"{program} is not installed (apt-get install dcmtk dicom3tools)")
    return str(path)


def shared_data(name: str) -> Path:
    """A folder of real data beside the checkout; skips without it."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"no real data at ../shared/data/{name}")
    return path


def _lack(what: str) -> None:
    if os.environ.get("IODEEP_PEERS") == "required":
        pytest.fail(f"required in CI: {what}")
    pytest.skip(what)
