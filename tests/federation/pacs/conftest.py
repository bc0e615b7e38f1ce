"""An embedded archive on a free loopback port, and instances to put into it."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from federation.pacs import Archive, ArchiveServer, Gateway, Limits, open_gateway

if TYPE_CHECKING:
    from tests.federation.pacs.web.web_archive import WebArchive

Make = Callable[..., Path]


def once(timeout_s: float) -> Limits:
    """No second attempt."""
    return Limits(timeout_s=timeout_s, attempts=1)


def interrupt_after(moment: threading.Event) -> threading.Thread:
    """Ctrl-C in the main thread, shortly after a moment."""

    def interrupt() -> None:
        moment.wait(10)
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "archive") as archive:
        yield archive


@pytest.fixture
def server(archive: Archive) -> Iterator[ArchiveServer]:
    with ArchiveServer(archive, ae_title="PEER") as server:
        yield server


@pytest.fixture(params=["dimse", "folder"])
def gateway(
    request: pytest.FixtureRequest, archive: Archive, server: ArchiveServer
) -> Iterator[Gateway]:
    """The same archive over associations and straight."""
    address = server.address if request.param == "dimse" else f"folder:{archive.folder}"
    with open_gateway(address) as gateway:
        yield gateway


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a small MR instance; attributes, and a transfer syntax, can be given by keyword."""
    folder = tmp_path / "made"
    folder.mkdir()

    def make(*, syntax: str = ExplicitVRLittleEndian, **attributes: object) -> Path:
        ds = Dataset()
        ds.SOPClassUID = MRImageStorage
        ds.SOPInstanceUID = generate_uid()
        ds.StudyInstanceUID = "1.2.3.1"
        ds.SeriesInstanceUID = "1.2.3.1.1"
        ds.PatientID = "P1"
        ds.PatientName = "Test^Person"
        ds.StudyDate = "20200102"
        ds.Modality = "MR"
        ds.SeriesNumber = 1
        ds.InstanceNumber = 1
        ds.Rows = ds.Columns = 8
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit = 15
        ds.PixelRepresentation = 0
        ds.SamplesPerPixel = 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.PixelData = np.arange(64, dtype="<u2").tobytes()
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if UID(syntax).is_encapsulated:
            ds.compress(syntax, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = UID(syntax)
        path = folder / f"{ds.SOPInstanceUID}.dcm"
        ds.save_as(path, enforce_file_format=True)
        return path

    return make


# --- archives over HTTP -------------------------------------------------------------------


@pytest.fixture
def three(make: Make) -> "WebArchive":
    """An archive of three instances."""
    from tests.federation.pacs.web.web_archive import with_instances  # which needs what is above

    return with_instances(make, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where to fetch to."""
    folder = tmp_path / "fetched"
    folder.mkdir()
    return folder
