"""IODeep records as DICOM files: round trips, other eyes on them, and every changed byte."""

import json
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import rfc8785
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from benchmarks.measure import extra_bytes
from federation.errors import CodecError, DigestError
from federation.iodeep.codec import read_manifest, read_record, write_record
from federation.iodeep.header import Stamp
from federation.iodeep.manifest import Reference, StateManifest, parse_manifest
from tests.federation.iodeep.records import LINE, evaluation, tensors, version
from tests.peers import peer

STAMP = Stamp(
    study_date="20260102", study_time="030405", content_date="20260102", content_time="030405"
)


@pytest.mark.parametrize("part_bytes", [10**9, 5000, 1])
def test_a_version_reads_back_bit_for_bit(tmp_path: Path, part_bytes: int) -> None:
    manifest, parts = version(part_bytes=part_bytes)
    paths = write_record(tmp_path, manifest, parts, STAMP)
    record = read_record(reversed(paths))
    record.verify()
    assert record.manifest == manifest
    assert record.stamp == STAMP
    written = tensors()
    assert {n: bytes(t.data) for n, t in record.tensors().items()} == {
        n: bytes(t.data) for n, t in written.items()
    }


def test_the_same_content_has_the_same_uids_at_any_time_and_other_content_others() -> None:
    first, again = version()[0], version()[0]
    other = version(tensors(seed=1))[0]
    assert (first.uid, first.series_uid, first.part_uid(1)) == (
        again.uid,
        again.series_uid,
        again.part_uid(1),
    )
    uids = {first.uid, first.series_uid, first.part_uid(1), first.study_uid, other.uid}
    assert len(uids) == 5
    assert all(re.fullmatch(r"2\.25\.\d{1,39}", uid) and len(uid) <= 64 for uid in uids)
    assert first.study_uid == other.study_uid


def test_a_copy_of_a_manifest_has_its_own_identity() -> None:
    manifest = version()[0]
    uid = manifest.uid
    assert manifest.model_copy(update={"round": 7}).uid != uid == manifest.uid


def test_a_manifest_is_read_without_its_weights(tmp_path: Path) -> None:
    manifest, parts = version()
    *_, path = write_record(tmp_path, manifest, parts, STAMP)
    assert read_manifest(path) == (manifest, None, STAMP)


def test_an_evaluation_is_one_instance(tmp_path: Path) -> None:
    manifest = evaluation(version()[0])
    paths = write_record(tmp_path, manifest, [], STAMP)
    assert len(paths) == 1
    assert read_record(paths).manifest == manifest


def test_an_archive_that_makes_private_elements_un_changes_nothing(tmp_path: Path) -> None:
    manifest, parts = version()
    paths = write_record(tmp_path, manifest, parts, STAMP)
    for path in paths:
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds.save_as(path, enforce_file_format=True, implicit_vr=True)
    record = read_record(paths)
    record.verify()
    assert record.manifest == manifest


def test_an_archive_that_adds_attributes_changes_nothing(tmp_path: Path) -> None:
    paths = write_record(tmp_path, *version(), STAMP)
    for path in paths:
        ds = dcmread(path)
        ds.InstitutionName = "somewhere"
        ds.save_as(path)
    read_record(paths).verify()


def test_dciodvfy_finds_no_error_in_any_record(tmp_path: Path) -> None:
    manifest, parts = version(round=1)
    child, _ = version(round=2, parent=manifest.reference)
    files = write_record(tmp_path, manifest, parts, STAMP)
    state = StateManifest(
        line=LINE, branch="main", round=1, of=manifest.reference, by="A", weights=manifest.weights
    )
    for folder, other in (("child", child), ("evaluation", evaluation(manifest)), ("state", state)):
        (tmp_path / folder).mkdir()
        weights = [] if folder == "evaluation" else version(round=2)[1]
        files += write_record(tmp_path / folder, other, weights, STAMP)
    for path in files:
        said = subprocess.run(
            [peer("dciodvfy"), str(path)], capture_output=True, text=True, check=False
        )
        errors = [line for line in said.stderr.splitlines() if line.startswith("Error")]
        assert "RawData" in said.stderr
        assert errors == []


def test_dcmdump_reads_manifest_and_part(tmp_path: Path) -> None:
    manifest, parts = version()
    part, first = write_record(tmp_path, manifest, parts, STAMP)
    said = subprocess.run(
        [peer("dcmdump"), "+L", str(first)], capture_output=True, text=True, check=True
    ).stdout
    assert "(7fdf,1003) UT" in said
    assert '"kind":"VERSION"' in said
    said = subprocess.run(
        [peer("dcmdump"), str(part)], capture_output=True, text=True, check=True
    ).stdout
    assert "(7fdf,1010) OB" in said
    assert f"[{manifest.digest}]" in said


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(
    "changes", [300, pytest.param(30_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_a_changed_bit_is_noticed_or_changes_nothing_of_the_record(
    tmp_path: Path, changes: int
) -> None:
    """Only clock times, software versions, character set and VRs are not the manifest's."""
    manifest, parts = version(part_bytes=8000)
    written = {name: bytes(tensor.data) for name, tensor in tensors().items()}
    paths = write_record(tmp_path, manifest, parts, STAMP)
    draw = random.Random(0)
    unnoticed = 0
    for path in paths:
        whole = path.read_bytes()
        for _ in range(changes // 2):
            changed = bytearray(whole)
            changed[draw.randrange(400, len(whole))] ^= 1 << draw.randrange(8)  # in the data set
            path.write_bytes(changed)
            try:
                record = read_record(paths)
                record.verify()
            except CodecError:
                continue
            unnoticed += 1
            assert record.manifest == manifest
            assert {n: bytes(t.data) for n, t in record.tensors().items()} == written
        path.write_bytes(whole)
    assert unnoticed < changes / 10


def test_a_changed_weight_byte_is_named_by_its_part(tmp_path: Path) -> None:
    paths = write_record(tmp_path, *version(part_bytes=8000), STAMP)
    whole = bytearray(paths[1].read_bytes())
    whole[-10] ^= 1
    paths[1].write_bytes(whole)
    with pytest.raises(DigestError, match="weight part 2 "):
        read_record(paths).verify()


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = write_record(tmp_path, *version(part_bytes=8000), STAMP)
    with pytest.raises(CodecError, match="weight part 1 of 2 is missing"):
        read_record(paths[1:])


def test_a_part_of_another_version_is_refused(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        (tmp_path / name).mkdir()
        write_record(tmp_path / name, *version(tensors(seed)), STAMP)
    mixed = [tmp_path / "one" / "0001.dcm", tmp_path / "two" / "0002.dcm"]
    with pytest.raises(DigestError, match="another manifest"):
        read_record(mixed)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    paths = write_record(tmp_path, *version(), STAMP)
    for path in paths:
        whole = path.read_bytes()
        for keep in (0, 100, 200, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:keep])
            with pytest.raises(CodecError):
                read_record(paths).verify()
        path.write_bytes(whole)


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    """A few bytes of it would be gigabytes in memory."""
    *_, path = write_record(tmp_path, *version(), STAMP)
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.add_new(0x7FDF2010, "OB", bytes(10**8))
    ds.save_as(path, enforce_file_format=True)
    assert path.stat().st_size < 10**6
    for read in (read_manifest, lambda path: read_record([path])):
        peak = extra_bytes(lambda read=read: refused(read, path))
        assert peak < 10**7


def refused(read: Callable[[Path], object], path: Path) -> None:
    with pytest.raises(CodecError, match="deflated"):
        read(path)


def test_writing_refuses_bytes_that_the_manifest_does_not_name(tmp_path: Path) -> None:
    manifest, _ = version()
    _, others = version(tensors(seed=1))
    with pytest.raises(DigestError):
        write_record(tmp_path, manifest, others, STAMP)
    with pytest.raises(CodecError):
        write_record(tmp_path, manifest, [[b"short"]], STAMP)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 5000,
        b'{"schema_version":2,"kind":"VERSION"}',
        b'{"schema_version":1,"kind":"PROGRAM"}',
        b'{"schema_version":1,"kind":"VERSION"}',
        b" " * (2**20 + 1),
    ],
)
def test_a_manifest_from_outside_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(CodecError):
        parse_manifest(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", [2**53]), ("channels", 10**30), ("name", "\ud800"), ("\ud800", 1),
        ("name", "é"),
    ],
)  # fmt: skip
def test_arguments_without_a_canonical_form_are_refused(field: str, value: object) -> None:
    """Not with what the library raises: a listing passes over such a record."""
    document = json.loads(version()[0].canonical)
    document["architecture"]["arguments"] = {field: value}
    for ascii_only in (True, False):
        text = json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=ascii_only
        ).encode(errors="surrogatepass")
        with pytest.raises(CodecError):
            parse_manifest(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [("round", 2**31), ("line.modality", "M R\\"), ("line.slug", "*"), ("line.slug", "x" * 25),
     ("lineage.parent.uid", "2.25.1.01"), ("lineage.parent.uid", "2.25..1")],
)  # fmt: skip
def test_what_makes_no_attribute_is_refused(field: str, value: object) -> None:
    """A Series Number is an Integer String, and a Patient ID is a key of C-FIND."""
    parent = Reference(uid="1.2", digest="0" * 64)
    document = where = json.loads(version(parent=parent)[0].canonical)
    *path, last = field.split(".")
    for key in path:
        where = where[key]
    where[last] = value
    with pytest.raises(CodecError, match=f"invalid at: {field}$"):
        parse_manifest(rfc8785.dumps(document))


def test_a_message_about_a_manifest_stays_short() -> None:
    document = json.loads(version()[0].canonical) | {f"{n}\n" + "x" * 9999: 1 for n in range(99)}
    with pytest.raises(CodecError) as raised:
        parse_manifest(rfc8785.dumps(document))
    assert len(str(raised.value)) < 1000
    assert str(raised.value).isprintable()


def test_a_manifest_that_is_not_canonical_is_refused() -> None:
    canonical = version()[0].canonical
    assert parse_manifest(canonical) == version()[0]
    with pytest.raises(CodecError, match="canonical"):
        parse_manifest(canonical.replace(b",", b", ", 1))
