"""The gateway straight to an embedded archive's folder, without a network."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydicom import Dataset

from federation.closing import Closing
from federation.errors import PacsError
from federation.pacs.address import FolderAddress
from federation.pacs.archive import Archive
from federation.pacs.gateway import Level


class FolderGateway(Closing):
    """An archive's files, also while a server answers for them. Close it, or use ``with``."""

    def __init__(self, address: FolderAddress) -> None:
        """Raises :class:`PacsError` where the folder is no archive: looking makes none."""
        self._address = address
        self._archive = Archive(address.path, create=False)

    @property
    def address(self) -> str:
        return str(self._address)

    def echo(self) -> None:
        self._archive.find("STUDY", {})

    def find(self, level: Level, keys: Mapping[str, str]) -> list[Dataset]:
        return self._archive.find(level, keys)

    def fetch(
        self, folder: Path, *, study: str, series: str, instance: str | None = None
    ) -> list[Path]:
        found = self._archive.instances(study=study, series=series, instance=instance or "")
        if not found:
            raise PacsError(f"series {series} is not in {self.address}")
        paths = []
        for one in found:
            target = folder / one.path.name
            try:
                shutil.copyfile(one.path, target)
            except OSError as error:
                raise PacsError(
                    f"instance {one.uid} of {self.address} cannot be read: {error.strerror}"
                ) from error
            paths.append(target)
        return paths

    def store(self, paths: Iterable[Path]) -> None:
        for path in paths:
            self._archive.ingest(path)

    def close(self) -> None:
        self._archive.close()
