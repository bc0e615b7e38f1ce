"""The odd archive answers others' programs, and is as odd as it is told to be."""

import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from clients.doctor.sample import write_sample
from tests.peers import peer
from tests.peers.odd import AE_TITLE, OddArchive, Oddities, odd_archive


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    return write_sample(tmp_path, instances=1, size=1000, name="odd").paths[0]


def dcmtk(program: str, archive: OddArchive, *options: str) -> str:
    """What a program of DCMTK says; raises where it does not end well."""
    port = archive.dimse.rpartition(":")[2]
    command = [peer(program), "-v", "-aec", AE_TITLE, "127.0.0.1", port, *options]
    return subprocess.run(
        command, capture_output=True, check=True, timeout=60, text=True
    ).stderr  # fmt: skip


def test_it_takes_finds_and_gives_back(tmp_path: Path, instance: Path) -> None:
    got = tmp_path / "got"
    got.mkdir()
    with odd_archive() as archive:
        dcmtk("storescu", archive, str(instance))
        assert list(archive.instances) == [instance.stem]
        keys = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=IODEEP*")
        study = str(dcmread(instance).StudyInstanceUID)
        assert study in dcmtk("findscu", archive, *keys, "-k", "StudyInstanceUID")
        by_uid = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
        dcmtk("getscu", archive, "-S", *by_uid, "-od", str(got))
    (path,) = got.iterdir()
    assert dcmread(path) == dcmread(instance)


@pytest.mark.parametrize("odd", [Oddities(full_above=0), Oddities(raw_data=False)])
def test_it_refuses_what_it_is_told_to(instance: Path, odd: Oddities) -> None:
    with odd_archive(odd) as archive, pytest.raises(subprocess.CalledProcessError):
        dcmtk("storescu", archive, str(instance))


def test_it_takes_no_more_associations_than_it_is_told(instance: Path) -> None:
    ae = AE()
    ae.add_requested_context(Verification)
    with odd_archive(Oddities(associations=1)) as archive:
        port = int(archive.dimse.rpartition(":")[2])
        first = ae.associate("127.0.0.1", port)
        second = ae.associate("127.0.0.1", port)
        assert (first.is_established, second.is_rejected) == (True, True)
        first.release()
