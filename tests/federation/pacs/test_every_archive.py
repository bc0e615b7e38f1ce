"""One suite for every archive: the embedded one and those of others, over DIMSE and DICOMweb.

An archive runs for all tests; each test has a line, a patient and UIDs of its own.
"""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RawDataStorage,
    RLELossless,
    generate_uid,
)

from benchmarks.weights import make_weights, tensors_in
from federation.errors import PacsError, RegistryError, StorageError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import VersionManifest
from federation.iodeep.signature import SigningKey
from federation.iodeep.weights import weights_digest
from federation.pacs import Gateway, Limits, open_gateway
from federation.registry import Registry
from federation.releases import promote, read_releases, released, roll_back
from federation.trust import Rule, TrustList
from tests.federation.iodeep.records import evaluation, tensors, version
from tests.federation.pacs.archives import ARCHIVES, at_port, port_of
from tests.federation.pacs.conftest import Make
from tests.federation.test_large_models import MAX_GROWTH_BYTES, go_through
from tests.peers.certificates import Certificates
from tests.peers.proxy import proxy

PART_BYTES = 8000


@pytest.fixture(scope="session", params=ARCHIVES)
def address(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Certificates,
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp(request.param)
    with ARCHIVES[request.param](folder, certificates) as address:
        yield address
    shutil.rmtree(folder)  # pytest keeps the folders of its last runs


@pytest.fixture
def gateway(address: str) -> Iterator[Gateway]:
    with open_gateway(address) as gateway:
        yield gateway


@pytest.fixture
def registry(gateway: Gateway, tmp_path: Path) -> Registry:
    return Registry(gateway, scratch=tmp_path / "scratch")


@pytest.fixture
def line() -> Line:
    return Line.parse(f"MR/hippocampus/-/t-{uuid.uuid4().hex[:16]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """Two studies of two series of two instances, by their UIDs."""

    id: str
    studies: dict[str, dict[str, list[str]]]

    @property
    def first(self) -> dict[str, str]:
        """The keys of the first series."""
        study = next(iter(self.studies))
        return {"StudyInstanceUID": study, "SeriesInstanceUID": next(iter(self.studies[study]))}


@pytest.fixture
def patient(gateway: Gateway, make: Make) -> Patient:
    """Stored. Studies have dates, series numbers and descriptions, instances numbers."""
    id = f"P{uuid.uuid4().hex[:12]}"
    studies: dict[str, dict[str, list[str]]] = {}
    paths = []
    for date in ("20200102", "20210304"):
        study = generate_uid()
        studies[study] = {}
        for number, (modality, description) in enumerate((("MR", "T1 axial"), ("OT", "T2"))):
            series = generate_uid()
            studies[study][series] = [generate_uid(), generate_uid()]
            for instance, uid in enumerate(studies[study][series]):
                paths.append(
                    make(
                        PatientID=id,
                        PatientName=f"Name^{id}",
                        StudyInstanceUID=study,
                        StudyID="S",
                        StudyDate=date,
                        StudyTime="101112",
                        SeriesInstanceUID=series,
                        SeriesNumber=number + 1,
                        SeriesDescription=description,
                        BodyPartExamined="BRAIN",
                        Modality=modality,
                        SOPInstanceUID=uid,
                        InstanceNumber=instance + 1,
                        ContentLabel=f"LABEL{instance + 1}",
                    )
                )
    gateway.store(paths)
    return Patient(id=id, studies=studies)


def test_it_answers(gateway: Gateway) -> None:
    gateway.echo()
    gateway.release()
    gateway.echo()


# --- looking ------------------------------------------------------------------------------


def test_studies_are_found_by_keys_wildcards_and_dates(gateway: Gateway, patient: Patient) -> None:
    first, second = patient.studies
    for keys, expected in (
        ({"PatientID": patient.id}, {first, second}),
        ({"PatientID": f"{patient.id[:-1]}*"}, {first, second}),
        ({"PatientID": f"{patient.id[:-1]}?", "StudyDate": "20200102"}, {first}),
        ({"PatientID": patient.id, "StudyDate": "20200103-20300101"}, {second}),
        ({"PatientID": patient.id, "StudyDate": "19000101"}, set()),
        ({"PatientID": patient.id, "StudyInstanceUID": second}, {second}),
        ({"PatientName": f"Name^{patient.id}"}, {first, second}),
        ({"PatientName": f"Name^{patient.id[:6]}*", "PatientID": patient.id}, {first, second}),
        ({"PatientID": "nobody's"}, set()),
    ):
        found = gateway.find("STUDY", keys)
        assert {one.StudyInstanceUID for one in found} == expected, keys
        assert len(found) == len(expected)


def test_series_are_found_by_keys(gateway: Gateway, patient: Patient) -> None:
    study, series = next(iter(patient.studies.items()))
    first, second = series
    for keys, expected in (
        ({}, {first, second}),
        ({"SeriesNumber": "2"}, {second}),
        ({"Modality": "MR"}, {first}),
        ({"SeriesInstanceUID": second}, {second}),
        ({"SeriesNumber": "3"}, set()),
    ):
        found = gateway.find("SERIES", {"StudyInstanceUID": study, **keys})
        assert {one.SeriesInstanceUID for one in found} == expected, keys
        assert len(found) == len(expected)


def test_instances_are_found_by_keys(gateway: Gateway, patient: Patient) -> None:
    instances = patient.studies[patient.first["StudyInstanceUID"]]
    first, second = instances[patient.first["SeriesInstanceUID"]]
    for keys, expected in (
        ({}, {first, second}),
        ({"InstanceNumber": "2"}, {second}),
        ({"SOPInstanceUID": first}, {first}),
        ({"InstanceNumber": "3"}, set()),
    ):
        found = gateway.find("IMAGE", {**patient.first, **keys})
        assert {one.SOPInstanceUID for one in found} == expected, keys
        assert len(found) == len(expected)


def test_what_is_asked_for_comes_with_the_answer(gateway: Gateway, patient: Patient) -> None:
    asked = {"PatientID": patient.id, "StudyDate": "", "StudyTime": "", "StudyID": ""}
    assert {
        (str(one.StudyDate), str(one.StudyTime), one.StudyID)
        for one in gateway.find("STUDY", asked)
    } == {("20200102", "101112", "S"), ("20210304", "101112", "S")}
    keys = {"StudyInstanceUID": patient.first["StudyInstanceUID"], "Modality": "",
            "SeriesNumber": ""}  # fmt: skip
    found = gateway.find("SERIES", keys)
    assert {(one.Modality, int(one.SeriesNumber)) for one in found} == {("MR", 1), ("OT", 2)}
    found = gateway.find("IMAGE", {**patient.first, "InstanceNumber": ""})
    assert {int(one.InstanceNumber) for one in found} == {1, 2}


def test_a_key_that_the_archive_ignores_hides_nothing_and_contradicts_nothing(
    gateway: Gateway, patient: Patient
) -> None:
    """An archive may leave such a key out; where it answers with it, the answer matches."""
    study = patient.first["StudyInstanceUID"]
    first, _ = patient.studies[study]
    for keyword, wanted in (("SeriesDescription", "T1*"), ("BodyPartExamined", "BRAIN")):
        found = gateway.find("SERIES", {"StudyInstanceUID": study, keyword: wanted})
        assert first in {one.SeriesInstanceUID for one in found}, keyword
        values = {str(one.get(keyword)) for one in found if keyword in one}
        assert values <= {"T1 axial", "BRAIN"}, keyword
    wanted = patient.studies[study][first][0]
    found = gateway.find("IMAGE", {**patient.first, "ContentLabel": "LABEL1"})
    assert wanted in {one.SOPInstanceUID for one in found}
    assert {str(one.ContentLabel) for one in found if "ContentLabel" in one} <= {"LABEL1"}


# --- storing and fetching -----------------------------------------------------------------


def body(path: Path) -> bytes:
    """The data set of a Part 10 file, as encoded: what follows the file meta."""
    with path.open("rb") as file:
        ds = dcmread(file, stop_before_pixels=True)
        length = 132 + 12 + ds.file_meta.FileMetaInformationGroupLength
        file.seek(length)
        return file.read()


@pytest.fixture
def raw(make: Make) -> Path:
    """An instance of a class that has no pixels, with private elements; its own series."""
    path = make(
        SOPClassUID=RawDataStorage, Modality="OT", StudyInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
    )  # fmt: skip
    ds = dcmread(path)
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        del ds[keyword]
    block = ds.private_block(0x7FDF, "TEST", create=True)
    block.add_new(0x01, "UT", "text of any length " * 1000)
    block.add_new(0x02, "FD", [0.1, -1e300])
    block.add_new(0x10, "OB", bytes(range(256)) * 4000)
    ds.save_as(path, enforce_file_format=True)
    return path


def test_private_elements_come_back_bit_for_bit(
    gateway: Gateway, raw: Path, tmp_path: Path
) -> None:
    gateway.store([raw])
    sent = dcmread(raw)
    (got,) = gateway.fetch(tmp_path, study=sent.StudyInstanceUID, series=sent.SeriesInstanceUID)
    assert got.name == f"{sent.SOPInstanceUID}.dcm"
    assert dcmread(got).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert body(got) == body(raw)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_image_comes_back_with_equal_attributes(
    gateway: Gateway, make: Make, tmp_path: Path, syntax: UID
) -> None:
    """An archive may keep either of the two that every one takes, or turn one into the other."""
    study, series = generate_uid(), generate_uid()
    sent = make(syntax=syntax, StudyInstanceUID=study, SeriesInstanceUID=series)
    gateway.store([sent])
    (got,) = gateway.fetch(tmp_path, study=study, series=series)
    assert dcmread(got) == dcmread(sent)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, RLELossless])
def test_a_compressed_image_comes_back_as_it_was_sent_or_is_not_taken(
    gateway: Gateway, address: str, make: Make, tmp_path: Path, syntax: UID
) -> None:
    study, series = generate_uid(), generate_uid()
    sent = make(syntax=syntax, StudyInstanceUID=study, SeriesInstanceUID=series)
    if "DCMQRSCP" in address:
        with pytest.raises(StorageError, match="takes no instance like"):
            gateway.store([sent])
        return
    gateway.store([sent])
    (got,) = gateway.fetch(tmp_path, study=study, series=series)
    assert dcmread(got).file_meta.TransferSyntaxUID == syntax
    assert dcmread(got) == dcmread(sent)


def test_what_only_looks_like_ours_comes_too(gateway: Gateway, make: Make, tmp_path: Path) -> None:
    """A model's modality is OT, which others have as well: what is of another SOP class, say."""
    study, series = generate_uid(), generate_uid()
    sent = [make(StudyInstanceUID=study, SeriesInstanceUID=series, Modality="OT") for _ in range(3)]
    gateway.store(sent)
    got = gateway.fetch(tmp_path, study=study, series=series)
    assert {path.name for path in got} == {path.name for path in sent}


def test_a_series_comes_whole_and_an_instance_alone(
    gateway: Gateway, patient: Patient, tmp_path: Path
) -> None:
    study, series = patient.first["StudyInstanceUID"], patient.first["SeriesInstanceUID"]
    expected = patient.studies[study][series]
    got = gateway.fetch(tmp_path, study=study, series=series)
    assert {path.stem for path in got} == set(expected)
    (tmp_path / "one").mkdir()
    (one,) = gateway.fetch(tmp_path / "one", study=study, series=series, instance=expected[1])
    assert list((tmp_path / "one").iterdir()) == [one]
    assert dcmread(one).SOPInstanceUID == expected[1]


def test_many_instances_come_back_each_with_its_own_pixels(
    gateway: Gateway, make: Make, tmp_path: Path
) -> None:
    """More than one association would carry alone; dcmqrscp mixes up what comes at once."""
    study, series = generate_uid(), generate_uid()
    of_series = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    paths = [make(**of_series, PixelData=bytes([number]) * 600_000) for number in range(24)]
    sent = {path.name: path for path in paths}
    gateway.store(paths)
    (tmp_path / "got").mkdir()
    got = gateway.fetch(tmp_path / "got", study=study, series=series)
    assert {path.name for path in got} == sent.keys()
    for path in got:
        assert dcmread(path).PixelData == dcmread(sent[path.name]).PixelData


def test_what_is_not_there_is_said_and_leaves_no_file(
    gateway: Gateway, patient: Patient, tmp_path: Path
) -> None:
    (tmp_path / "got").mkdir()
    study, series = patient.first["StudyInstanceUID"], patient.first["SeriesInstanceUID"]
    nothing = generate_uid()
    (tmp_path / "before").mkdir()
    gateway.fetch(tmp_path / "before", study=study, series=series)  # an association that can
    for asked in (
        {"study": nothing, "series": nothing},
        {"study": study, "series": nothing},
        {"study": study, "series": series, "instance": nothing},
    ):
        with pytest.raises(PacsError, match=r"not there|is not in"):
            gateway.fetch(tmp_path / "got", **asked)
    assert list((tmp_path / "got").iterdir()) == []
    gateway.echo()


def test_storing_the_same_again_is_harmless(gateway: Gateway, raw: Path, tmp_path: Path) -> None:
    gateway.store([raw])
    gateway.store([raw])
    sent = dcmread(raw)
    keys = {"StudyInstanceUID": sent.StudyInstanceUID, "SeriesInstanceUID": sent.SeriesInstanceUID}
    assert len(gateway.find("IMAGE", keys)) == 1


# --- versions -----------------------------------------------------------------------------


def publish(registry: Registry, line: Line, count: int) -> list[VersionManifest]:
    """Rounds 0, 1 … of a branch, each with an evaluation."""
    versions: list[VersionManifest] = []
    for number in range(count):
        parent = versions[-1].reference if versions else None
        manifest, parts = version(
            tensors(number), line=line, round=number, parent=parent, part_bytes=PART_BYTES
        )
        registry.publish(manifest, parts)
        registry.publish(evaluation(manifest, dice=number / 10))
        versions.append(manifest)
    return versions


def test_what_is_published_is_there_for_whoever_looks(
    registry: Registry, gateway: Gateway, line: Line
) -> None:
    versions = publish(registry, line, 3)
    other = Registry(gateway)
    assert other.versions(line, "main") == versions
    assert other.latest(line, "main") == versions[-1]
    found = [evaluation.measured.metrics for evaluation in other.evaluations(line, "main")]
    assert [metrics["test_dice_mean"] for metrics in found] == [0, 0.1, 0.2]
    (branch,) = other.branches(line)
    assert branch.name == "main"
    assert (branch.line, branch.name) in {(one.line, one.name) for one in other.branches()}
    with other.pull(versions[1]) as record:
        assert weights_digest(record.tensors()) == weights_digest(tensors(1))
    assert [one.problem for one in other.verify(line, "main")] == [None] * 6


def test_publishing_again_stores_nothing_and_other_content_is_refused(
    registry: Registry, gateway: Gateway, line: Line
) -> None:
    assert registry.publish(*version(line=line, part_bytes=PART_BYTES)).stored == 3
    assert registry.publish(*version(line=line, part_bytes=PART_BYTES)).stored == 0
    with pytest.raises(RegistryError, match="never change"):
        Registry(gateway).publish(*version(tensors(1), line=line))
    (kept,) = Registry(gateway).versions(line, "main")
    assert kept == version(line=line, part_bytes=PART_BYTES)[0]


def test_a_publishing_that_breaks_off_is_invisible_and_can_be_finished(
    address: str, line: Line, tmp_path: Path
) -> None:
    """The network goes away in the middle of the second part of three."""
    weights = tmp_path / "weights"
    make_weights(weights, 2_400_000)

    def publish(gateway: Gateway) -> tuple[VersionManifest, int]:
        record = version(tensors_in(weights, 400_000), line=line, part_bytes=900_000)
        assert len(record[1]) == 3
        return record[0], Registry(gateway).publish(*record).stored

    limits = Limits(timeout_s=5, attempts=1)
    with proxy(port_of(address)) as way:
        with open_gateway(at_port(address, way.port), limits=limits) as gateway:
            gateway.echo()
            way.go_down(after_bytes=1_400_000)
            with pytest.raises(PacsError):
                publish(gateway)
        with open_gateway(address) as other:
            assert Registry(other).versions(line, "main") == []
            assert Registry(other).entries(line, "main") == []
        way.listen()
        with open_gateway(at_port(address, way.port), limits=limits) as gateway:
            manifest, stored = publish(gateway)
            assert 0 < stored < 4
            assert Registry(gateway).versions(line, "main") == [manifest]


def test_releases_go_forth_and_back(gateway: Gateway, line: Line, tmp_path: Path) -> None:
    key = SigningKey.create(tmp_path / "release.key")
    registry = Registry(gateway, trust=TrustList([Rule.of_key(key.public)]), signer=key)
    with pytest.raises(RegistryError, match="is released here"):
        released(registry, line)
    one, two = publish(registry, line, 2)
    for each in (one, two):
        assert promote(registry, each, "better on validation").of == each.reference
        assert released(registry, line) == each
    assert roll_back(registry, line).of == one.reference
    assert released(Registry(gateway, trust=registry.trust), line) == one
    assert [release.action for release in read_releases(registry, line).documents] == [
        "promote", "promote", "rollback",
    ]  # fmt: skip
    assert {one.problem for one in registry.verify(line, "main")} == {None}


SOAK = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    ("nbytes", "part_bytes"),
    [
        (1_000_000, 2**18),
        pytest.param(124_000_000, 256 * 2**20, marks=SOAK),
        pytest.param(600_000_000, 256 * 2**20, marks=SOAK),
    ],
    ids=["1 MB", "124 MB", "600 MB"],
)
def test_weights_go_through_bit_for_bit_in_little_memory_of_ours(
    address: str, line: Line, tmp_path: Path, nbytes: int, part_bytes: int
) -> None:
    weights = tmp_path / "weights"
    make_weights(weights, nbytes)
    (growth,) = go_through(address, weights, part_bytes, line)
    weights.unlink()
    assert growth < MAX_GROWTH_BYTES
