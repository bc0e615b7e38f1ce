"""Where the embedded archive's instances lie: ``instances/xx/UID.dcm``, one file each."""

import os
from collections.abc import Iterator
from pathlib import Path

from pynetdicom.dsutils import split_dataset

COPY_BYTES = 2**20


def file_of(instances: Path, uid: str) -> Path:
    """Spread over 256 folders: a folder of a million files is slow to look into."""
    return instances / f"{sum(uid.encode()) % 256:02x}" / f"{uid}.dcm"


def all_files(instances: Path) -> Iterator[tuple[str, int, Path]]:
    """Each file's UID, by its name, its size and path."""
    with os.scandir(instances) as folders:
        for folder in folders:
            if folder.is_dir():
                with os.scandir(folder) as files:
                    for file in files:
                        if file.name.endswith(".dcm"):
                            uid = file.name.removesuffix(".dcm")
                            yield uid, file.stat().st_size, Path(file.path)


def same_dataset(one: Path, other: Path) -> bool:
    """Whether two files hold the same data set; preamble and file meta may differ."""
    with one.open("rb") as a, other.open("rb") as b:
        for path, file in ((one, a), (other, b)):
            _, offset = split_dataset(path)
            file.seek(offset)
        while chunk := a.read(COPY_BYTES):
            if chunk != b.read(len(chunk)):
                return False
        return not b.read(1)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
