"""What an archive is tried with, and what is said of what came back."""

import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.uid import ImplicitVRLittleEndian

from clients.doctor.sample import MAY_DIFFER, Sample, changes, study_uid, write_sample
from federation.iodeep.codec import _MAY_DIFFER, write_record
from federation.iodeep.header import Stamp
from tests.clients.data.conftest import edit
from tests.federation.iodeep.records import version
from tests.peers import peer

PAYLOAD, TEXT = 0x7FDF1010, 0x7FDF1003
SIZE = 10_000


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    folder = tmp_path / "sent"
    folder.mkdir()
    return write_sample(folder, instances=2, size=SIZE, name="test")


@pytest.fixture
def fetched(tmp_path: Path, sample: Sample) -> list[Path]:
    """The same, as they come back."""
    folder = tmp_path / "fetched"
    folder.mkdir()
    return [Path(shutil.copy(path, folder)) for path in sample.paths]


def test_equal_names_and_sizes_give_equal_files(tmp_path: Path, sample: Sample) -> None:
    again = tmp_path / "again"
    again.mkdir()
    written = write_sample(again, instances=2, size=SIZE, name="test")
    assert written.digests == sample.digests
    assert [path.read_bytes() for path in written.paths] == [
        path.read_bytes() for path in sample.paths
    ]
    larger = write_sample(again, instances=2, size=SIZE + 2, name="test")
    assert not larger.digests.keys() & sample.digests.keys()
    assert larger.study == sample.study == study_uid()


def test_payloads_are_the_same_in_every_release(sample: Sample) -> None:
    """An archive may have had them for years."""
    assert sorted(digest[:8] for digest in sample.digests.values()) == ["450ff2a2", "ddba277c"]


def test_a_sample_is_a_raw_data_instance(sample: Sample) -> None:
    for path in sample.paths:
        said = subprocess.run(
            [peer("dciodvfy"), str(path)], capture_output=True, text=True, check=False
        ).stderr
        assert "RawData" in said
        assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_a_sample_has_every_attribute_that_a_version_has(tmp_path: Path, sample: Sample) -> None:
    parent, _ = version(round=1)
    manifest, parts = version(round=2, parent=parent.reference)
    record = tmp_path / "record"
    record.mkdir()
    tried = {element.tag for path in sample.paths for element in dcmread(path)}
    for path in write_record(record, manifest, parts, Stamp.now()):
        written = {one.tag for one in dcmread(path) if not one.tag.is_private}
        assert written - tried == set()


def test_what_may_differ_is_what_may_differ_in_a_record() -> None:
    assert {keyword_for_tag(tag) for tag in _MAY_DIFFER} == MAY_DIFFER


def test_what_came_back_as_it_was_is_no_change(sample: Sample, fetched: list[Path]) -> None:
    assert changes(sample, fetched) == ([], [])


def setting(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda ds: setattr(ds, keyword, value)


def flip(ds: Dataset) -> None:
    ds[PAYLOAD].value = ds[PAYLOAD].value[:-1] + bytes([ds[PAYLOAD].value[-1] ^ 0x80])


@pytest.mark.parametrize(
    ("change", "damage", "harmless"),
    [
        (setting("PatientID", "X"), "PatientID was changed", ""),
        (setting("SeriesInstanceUID", "1.2.3"), "SeriesInstanceUID was changed", ""),
        (setting("AccessionNumber", "4711"), "AccessionNumber was changed", ""),
        (lambda ds: ds.pop("StudyID"), "StudyID was changed", ""),
        (flip, "the payload is not the one that was sent", ""),
        (lambda ds: ds.pop(PAYLOAD), "the payload is not the one that was sent", ""),
        (lambda ds: ds.pop(TEXT), "a private text was changed or dropped", ""),
        (lambda ds: ds.remove_private_tags(), "private elements were dropped", ""),
        (lambda ds: ds.pop("AccessionNumber"), "AccessionNumber was changed", ""),
        (lambda ds: ds.pop("IssuerOfPatientID"), "IssuerOfPatientID was changed", ""),
        (
            lambda ds: setattr(ds.AnatomicRegionSequence[0], "CodeMeaning", "Head"),
            "AnatomicRegionSequence was changed",
            "",
        ),
        (setting("StudyDate", "20300101"), "", "StudyDate was changed"),
        (
            setting("InstitutionName", "Hospital"),
            "",
            "attributes were added: InstitutionName",
        ),
    ],
)
def test_a_change_is_named(
    sample: Sample,
    fetched: list[Path],
    change: Callable[[Dataset], object],
    damage: str,
    harmless: str,
) -> None:
    edit(fetched[1], change)
    assert changes(sample, fetched) == (
        [damage] if damage else [],
        [harmless] if harmless else [],
    )


def test_another_transfer_syntax_is_no_damage(sample: Sample, fetched: list[Path]) -> None:
    for path in fetched:
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds.save_as(path, implicit_vr=True, little_endian=True)
    damage, harmless = changes(sample, fetched)
    assert damage == []
    assert harmless == [
        "sent back in Implicit VR Little Endian",
        "private elements come back as UN",
    ]


def test_what_is_missing_is_counted(sample: Sample, fetched: list[Path]) -> None:
    assert changes(sample, fetched[:1]) == (["1 of 2 instances did not come back"], [])


def test_what_was_not_sent_is_no_damage(sample: Sample, fetched: list[Path]) -> None:
    more = fetched[0].with_name("1.2.3.dcm")
    more.write_bytes(fetched[0].read_bytes())
    assert changes(sample, [*fetched, more]) == ([], ["it added instances to the series"])


@pytest.mark.parametrize("length", [0, 100, 1000, SIZE])
def test_a_file_that_is_cut_short_is_damage(
    sample: Sample, fetched: list[Path], length: int
) -> None:
    fetched[0].write_bytes(fetched[0].read_bytes()[:length])
    damage, _ = changes(sample, fetched)
    assert damage


def test_large_payloads_are_not_held_in_memory(tmp_path: Path) -> None:
    sent, came = tmp_path / "sent", tmp_path / "came"
    sent.mkdir()
    came.mkdir()
    tracemalloc.start()
    sample = write_sample(sent, instances=1, size=40_000_000, name="large")
    fetched = [Path(shutil.copy(path, came)) for path in sample.paths]
    assert changes(sample, fetched) == ([], [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6
