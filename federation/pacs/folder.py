"""The gateway straight to an embedded archive's folder, without a network."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydicom import Dataset

from federation.closing import Closing
from federation.errors import PacsError, StorageError
from federation.pacs.address import FolderAddress
from federation.pacs.embedded.archive import Archive
from federation.pacs.embedded.files import COPY_BYTES
from federation.pacs.gateway import Level, Moved, untold
from federation.pacs.incoming import IncomingFile
from federation.pacs.matching import check_keys, check_uids
from federation.pacs.part10 import check_there


class FolderGateway(Closing):
    """An archive's files, also while a server answers for them. Close it, or use ``with``."""

    def __init__(self, address: FolderAddress, *, moved: Moved = untold) -> None:
        """Raises :class:`PacsError` where the folder is no archive: looking makes none."""
        self._address = address
        self._moved = moved
        self._archive = Archive(address.path, create=False)

    @property
    def address(self) -> str:
        return str(self._address)

    def echo(self) -> None:
        self._archive.find("STUDY", {"StudyInstanceUID": "1.0"})

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        check_keys(level, keys)
        return self._archive.find(level, keys)

    def fetch(
        self, folder: Path, *, study: str, series: str, instance: str | None = None
    ) -> list[Path]:
        check_uids(study, series, *([] if instance is None else [instance]))
        found = self._archive.instances(study=study, series=series, instance=instance or "")
        if not found:
            what = f"series {series}" if instance is None else f"instance {instance}"
            raise PacsError(f"{what} is not in {self.address}")
        paths: list[Path] = []
        try:
            for one in found:
                paths.append(_copy(one.path, folder))
                self._moved(paths[-1].stat().st_size)
        except OSError as error:
            for path in paths:
                path.unlink(missing_ok=True)
            raise StorageError(
                f"series {series} of {self.address} cannot be copied to {folder}: "
                f"{error.strerror}. Is the folder there, and room in it?"
            ) from error
        return paths

    def store(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._archive.ingest(path)
            self._moved(path.stat().st_size)

    def confirm(self, paths: Iterable[Path]) -> None:
        check_there(paths, self)

    def release(self) -> None:
        """There is no association."""

    def close(self) -> None:
        self._archive.close()


def _copy(path: Path, folder: Path) -> Path:
    target = folder / path.name
    with path.open("rb") as stored, IncomingFile(folder) as copy:
        shutil.copyfileobj(stored, copy, COPY_BYTES)
        copy.move(target)
    return target
