"""The gateway over DICOMweb against a real Orthanc."""

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RawDataStorage,
    RLELossless,
    generate_uid,
)

from federation.errors import PacsError, PacsRefused, PacsUnreachable, StorageError
from federation.pacs import Gateway, Limits, open_gateway
from tests.federation.pacs.archives import at_port, port_of
from tests.federation.pacs.conftest import Make
from tests.peers.orthanc import Orthanc, orthanc
from tests.peers.proxy import Direction, Fault, proxy

QUICK = Limits(timeout_s=5, attempts=3, backoff_s=0.01)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    with orthanc(folder) as peer:
        yield peer
    shutil.rmtree(folder)  # pytest keeps the folders of its last runs


@pytest.fixture
def gateway(peer: Orthanc) -> Iterator[Gateway]:
    with open_gateway(peer.dicomweb, limits=QUICK) as gateway:
        yield gateway


@pytest.fixture
def keys() -> dict[str, object]:
    """Attributes of a study and a series of a test's own."""
    return {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}


def of(keys: dict[str, object]) -> dict[str, str]:
    return {"study": str(keys["StudyInstanceUID"]), "series": str(keys["SeriesInstanceUID"])}


def raw(make: Make, keys: dict[str, object], size: int) -> Path:
    """An instance with so many bytes in a private element."""
    path = make(SOPClassUID=RawDataStorage, Modality="OT", PixelData=b"", **keys)
    ds = dcmread(path)
    block = ds.private_block(0x7FDF, "TEST", create=True)
    block.add_new(0x01, "UT", "text " * 100)
    block.add_new(0x10, "OB", (b"\r\n--\r\n\0" + bytes(range(250))) * (size // 257))
    ds.save_as(path, enforce_file_format=True)
    return path


def test_what_was_stored_is_there_and_comes_back_to_the_bit(
    gateway: Gateway, make: Make, keys: dict[str, object], folder: Path
) -> None:
    sent = [raw(make, keys, size) for size in (0, 1000, 3_000_000)]
    gateway.store(sent)
    gateway.confirm(sent)
    gateway.store(sent)  # harmless
    got = gateway.fetch(folder, **of(keys))
    assert {path.stem for path in got} == {path.stem for path in sent}
    for path in sent:
        there, here = dcmread(folder / path.name), dcmread(path)
        assert there == here
        assert there.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    (one,) = gateway.fetch(folder, **of(keys), instance=sent[1].stem)
    assert dcmread(one) == dcmread(sent[1])


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_nothing_is_transcoded(
    gateway: Gateway, make: Make, keys: dict[str, object], folder: Path, syntax: str
) -> None:
    sent = make(syntax=syntax, **keys)
    gateway.store([sent])
    (got,) = gateway.fetch(folder, **of(keys))
    assert dcmread(got).file_meta.TransferSyntaxUID == syntax
    assert dcmread(got) == dcmread(sent)


def test_many_small_instances_come_whole(
    gateway: Gateway, make: Make, keys: dict[str, object], folder: Path
) -> None:
    sent = [make(InstanceNumber=number, **keys) for number in range(60)]
    gateway.store(sent)
    gateway.confirm(sent)
    got = gateway.fetch(folder, **of(keys))
    assert {path.stem for path in got} == {path.stem for path in sent}
    found = gateway.find("IMAGE", {keyword: str(uid) for keyword, uid in keys.items()})
    assert len(found) == 60


def test_a_confirmation_asks_the_archive(gateway: Gateway, make: Make) -> None:
    path = make(SeriesInstanceUID=generate_uid())
    with pytest.raises(StorageError, match=f"{path.stem} among them"):
        gateway.confirm([path])


def test_what_is_not_there_is_said(
    gateway: Gateway, make: Make, keys: dict[str, object], folder: Path
) -> None:
    gateway.store([make(**keys)])
    nothing = generate_uid()
    for asked in (
        {"study": nothing, "series": nothing},
        {**of(keys), "series": nothing},
        {**of(keys), "instance": nothing},
    ):
        with pytest.raises(PacsError, match=f"{nothing} is not in"):
            gateway.fetch(folder, **asked)
    assert list(folder.iterdir()) == []


# Letters of Latin 1: Orthanc answers in that, unless configured otherwise, and drops all others.
ODD_VALUES = {
    "PatientID": "A B+C",
    "PatientName": "Müller^Jane Ann=Ø^x",
    "StudyDescription": "MR: head & neck (50%) #1",
    "AccessionNumber": '1/2 "x"; {y}',
}


def test_values_of_any_spelling_are_found(
    gateway: Gateway, make: Make, keys: dict[str, object]
) -> None:
    own = str(keys["StudyInstanceUID"])
    gateway.store([make(SpecificCharacterSet="ISO_IR 192", **keys, **ODD_VALUES)])
    gateway.store([make(StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid())])
    for wanted in (
        *({keyword: value} for keyword, value in ODD_VALUES.items()),
        ODD_VALUES,
        {"StudyDescription": "MR: head*50%? #1"},
        {"PatientName": "m*^jane a??*"},
        {"PatientID": "A B*", "StudyDescription": ""},
        {"StudyInstanceUID": own},
        {"StudyInstanceUID": f"{own}\\1.2.9"},
        {"PatientID": "A B+C", "StudyDate": "20200101-"},
    ):
        found = gateway.find("STUDY", wanted)
        assert [str(one.StudyInstanceUID) for one in found] == [own], wanted
    for wanted in (
        {"PatientID": "A B C"},
        {"StudyDescription": "MR: head"},
        {"PatientID": "A B+C", "StudyDate": "-20200101"},
    ):
        assert gateway.find("STUDY", wanted) == [], wanted


def test_series_and_instances_are_found_by_what_they_are(
    gateway: Gateway, make: Make, keys: dict[str, object]
) -> None:
    study, series = of(keys)["study"], of(keys)["series"]
    one = make(SeriesDescription="T1 axial", InstanceNumber=7, ContentLabel="A", **keys)
    gateway.store([one, make(StudyInstanceUID=study, SeriesInstanceUID="1.2.3.9", SeriesNumber=2)])
    (found,) = gateway.find(
        "SERIES", {"StudyInstanceUID": study, "SeriesDescription": "T1 axial", "SeriesNumber": "+1"}
    )
    assert (found.SeriesInstanceUID, found.StudyInstanceUID) == (series, study)
    upper = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    (found,) = gateway.find("IMAGE", {**upper, "InstanceNumber": "7", "SOPClassUID": ""})
    assert found.SOPInstanceUID == one.stem
    assert found.SOPClassUID == dcmread(one).SOPClassUID
    assert gateway.find("IMAGE", {**upper, "InstanceNumber": "8"}) == []


def test_no_value_that_is_asked_for_reaches_a_log(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway.find("STUDY", {"PatientName": "Doe^Jane", "PatientID": "PID-7"})
    assert not caplog.records


def test_a_wrong_password_is_told_also_of_a_large_instance(
    peer: Orthanc, make: Make, keys: dict[str, object], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("iodeep:guess")
    with open_gateway(f"{peer.dicomweb.partition('?')[0]}?login={wrong}") as gateway:
        for act in (gateway.echo, lambda: gateway.store([raw(make, keys, 8_000_000)])):
            with pytest.raises(PacsRefused, match="Are user and password right") as caught:
                act()
            assert "guess" not in str(caught.value)


# --- a line that breaks -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "direction", "after_bytes"),
    [
        ("cut", None, 200_000),
        ("cut", None, 700_000),
        ("cut", None, 1_100_000),
        ("end", "received", 10),
        ("end", "received", 100),
        ("end", "received", 200_000),
        ("end", "received", 2_100_000),
    ],
)
def test_a_line_that_breaks_now_and_then_is_survived(
    peer: Orthanc,
    make: Make,
    keys: dict[str, object],
    folder: Path,
    then: Literal["cut", "end"],
    direction: Direction | None,
    after_bytes: int,
) -> None:
    sent = [raw(make, keys, 1_000_000) for _ in range(3)]
    breaking = Fault(after_bytes=after_bytes, then=then, direction=direction, connections=2)
    with (
        proxy(port_of(peer.dicomweb)) as line,
        open_gateway(at_port(peer.dicomweb, line.port), limits=QUICK) as gateway,
    ):
        line.set(breaking)
        gateway.store(sent)
        gateway.confirm(sent)
        gateway.release()
        line.set(breaking)
        got = gateway.fetch(folder, **of(keys))
    assert sorted(folder.iterdir()) == sorted(got)
    for path in sent:
        assert dcmread(folder / path.name) == dcmread(path)


def test_a_line_that_falls_silent_is_given_up_in_time_and_leaves_nothing(
    peer: Orthanc, gateway: Gateway, make: Make, keys: dict[str, object], folder: Path
) -> None:
    sent = [raw(make, keys, 1_000_000) for _ in range(2)]
    gateway.store(sent)
    limits = Limits(timeout_s=0.5, attempts=2, backoff_s=0.01)
    with (
        proxy(port_of(peer.dicomweb), Fault(after_bytes=500_000, then="hang")) as line,
        open_gateway(at_port(peer.dicomweb, line.port), limits=limits) as slow,
    ):
        begin = time.monotonic()
        with pytest.raises(PacsUnreachable):
            slow.fetch(folder, **of(keys))
        with pytest.raises(PacsUnreachable):
            slow.store(sent)
        assert time.monotonic() - begin < 8
    assert list(folder.iterdir()) == []


def test_a_slow_line_takes_longer_than_an_answer_may(
    peer: Orthanc, make: Make, keys: dict[str, object], folder: Path
) -> None:
    sent = raw(make, keys, 8_000_000)
    with (
        proxy(port_of(peer.dicomweb), Fault(bytes_per_s=4e6)) as line,
        open_gateway(
            at_port(peer.dicomweb, line.port), limits=Limits(timeout_s=1, attempts=1)
        ) as gateway,
    ):
        begin = time.monotonic()
        gateway.store([sent])
        (got,) = gateway.fetch(folder, **of(keys))
        assert time.monotonic() - begin > 3
    assert dcmread(got) == dcmread(sent)


def test_an_archive_that_was_restarted_is_connected_to_again(tmp_path: Path) -> None:
    with orthanc(tmp_path / "own") as peer, open_gateway(peer.dicomweb, limits=QUICK) as gateway:
        gateway.echo()
        peer.kill()
        with pytest.raises(PacsUnreachable):
            gateway.echo()
        with orthanc(tmp_path / "own", ports=peer.ports):
            gateway.echo()
