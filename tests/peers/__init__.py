"""What tests need and may not find: programs of others, and real images."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
PACKAGES = "dcmtk dicom3tools orthanc orthanc-dicomweb nginx-light iproute2"

_DAEMONS = "/usr/sbin"  # not in everybody's PATH


def peer(program: str) -> str:
    """The path of another's program; skips without it, and fails where peers are required."""
    path = shutil.which(program) or shutil.which(program, path=_DAEMONS)
    if path is None:
        lack(f"{program} is not installed (apt-get install --no-install-recommends {PACKAGES})")
    return str(path)


def shared_data(name: str) -> Path:
    """A folder of real data beside the checkout; skips without it."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"no real data at ../shared/data/{name}")
    return path


def lack(what: str) -> NoReturn:
    """Skips, and fails where peers are required."""
    if os.environ.get("IODEEP_PEERS") == "required":
        pytest.fail(f"required in CI: {what}")
    pytest.skip(what)
