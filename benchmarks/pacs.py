"""Instances to and from an Orthanc, beside the field's own tools, in turns.

Each side begins with files on disk and ends when the archive has them, or the other way round. The
tools are processes of their own; ours works in this one, and opens its associations anew in each
turn. ``python -m benchmarks.pacs store|fetch ADDRESS FOLDER`` does one of them when it is told to.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    RawDataStorage,
    generate_uid,
)

from benchmarks.measure import begin_when_ready, in_turns, profile, when_told
from benchmarks.table import Row
from federation.pacs import Archive, ArchiveServer, Limits, open_gateway
from federation.pacs.address import DimseAddress, WebAddress, parse_address
from tests.peers.orthanc import Orthanc, orthanc

_PROGRAMS = ("Orthanc", "storescu", "getscu", "curl")
_TURNS = 7
_ONE = Limits(associations=1, storing=1, timeout_s=120)
_SEVERAL = Limits(associations=4, storing=4, timeout_s=120)
_MEGABYTES = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Files of one series."""

    name: str
    study: str
    uid: str
    paths: list[Path]

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.paths)


def rows() -> Iterator[Row]:
    """One instance, parts of a version, slices of a series; over both protocols.

    Raises :class:`RuntimeError` without the peers.
    """
    if lacking := [name for name in _PROGRAMS if shutil.which(name) is None]:
        raise RuntimeError(f"{', '.join(lacking)} is not installed; see CONTRIBUTING.md")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        archive = stack.enter_context(orthanc(folder / "o", settings={"OverwriteInstances": True}))
        one = _raw_data(folder, "124 MB", [124_000_000])
        parts = _raw_data(folder, "600 MB in parts", [2**28, 2**28, 600_000_000 - 2**29])
        slices = _slices(folder, "200 CT slices", 200)
        yield from _over_associations(archive, one, _ONE, folder, bounds=(1.6, 1.2))
        yield from _over_associations(archive, parts, _SEVERAL, folder, bounds=(1.0, 1.0))
        yield from _over_associations(archive, slices, _SEVERAL, folder, bounds=(1.0, 1.0))
        yield from _over_http(archive, one, folder)
        for address in (archive.dimse, archive.dicomweb):
            yield from _memory(address, parts)
        yield from _embedded(archive, (one, slices), folder)


# --- rows ---------------------------------------------------------------------------------


def _over_associations(
    archive: Orthanc, series: Series, limits: Limits, folder: Path, bounds: tuple[float, float]
) -> Iterator[Row]:
    sides = {
        f"{series.name} to Orthanc / storescu": (
            partial(_store, archive.dimse, series, limits),
            partial(_storescu, archive.dimse, series),
        ),
        f"{series.name} from Orthanc / getscu": (
            partial(_fetch, archive.dimse, series, limits, folder),
            partial(_getscu, archive.dimse, series, folder),
        ),
    }
    for (what, (ours, theirs)), bound in zip(sides.items(), bounds, strict=True):
        yield _ratio(f"{what}, {_said(limits)}", ours, theirs, bound, series.size)


def _over_http(archive: Orthanc, series: Series, folder: Path) -> Iterator[Row]:
    sides = {
        "STOW-RS": (
            partial(_store, archive.dicomweb, series, _ONE),
            partial(_curl_stow, archive.dicomweb, _stow_body(series, folder)),
        ),
        # The series is listed over a second connection while it comes over the first.
        "WADO-RS, listed beside,": (
            partial(_fetch, archive.dicomweb, series, _SEVERAL, folder),
            partial(_curl_wado, archive.dicomweb, series, folder),
        ),
    }
    for what, (ours, theirs) in sides.items():
        yield _ratio(f"{series.name} by {what} / curl", ours, theirs, 1.1, series.size)


def _memory(address: str, series: Series) -> Iterator[Row]:
    """How much a process grows that does nothing but store and fetch."""
    kind = "DICOMweb" if isinstance(parse_address(address), WebAddress) else "associations"
    for does in ("store", "fetch"):
        command = [sys.executable, "-m", "benchmarks.pacs", does, address,
                   str(series.paths[0].parent), series.study, series.uid]  # fmt: skip
        with begin_when_ready(command) as (process, growth):
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
        yield Row(
            what=f"memory to {does} {series.name} over {kind}",
            value=growth[0].bytes / 1e6,
            bound=_MEGABYTES,
            unit="MB",
            shown=f"{series.size / 1e6:.0f} MB moved",
        )


def _embedded(archive: Orthanc, several: tuple[Series, ...], folder: Path) -> Iterator[Row]:
    """Both archives as storescu and getscu see them."""
    with Archive(folder / "embedded") as embedded, ArchiveServer(embedded) as server:
        for series in several:
            # An instance that is there already is only compared: a new one each time.
            turns = iter(_copies(series, folder, _TURNS + 2))
            yield _ratio(
                f"{series.name} by storescu to the embedded archive / to Orthanc",
                lambda turns=turns: _storescu(server.address, next(turns)),  # type: ignore[misc]
                partial(_storescu, archive.dimse, series),
                1.0,
                series.size,
            )
            _storescu(server.address, series)
            yield _ratio(
                f"{series.name} by getscu from the embedded archive / from Orthanc",
                partial(_getscu, server.address, series, folder),
                partial(_getscu, archive.dimse, series, folder),
                1.0,
                series.size,
            )


def _ratio(
    what: str, ours: Callable[[], None], theirs: Callable[[], None], bound: float, size: int
) -> Row:
    ratio_of, over = in_turns(ours, theirs, turns=_TURNS)
    ratio = ratio_of.over(over)
    speed = f"{size / 1e6 / ratio_of.median:.0f} and {size / 1e6 / over.median:.0f} MB/s"
    return Row(what=what, value=ratio.median, bound=bound, shown=f"{ratio}; {speed}").explained(
        lambda: profile(ours)
    )


def _said(limits: Limits) -> str:
    return "one association" if limits.associations == 1 else f"{limits.associations} associations"


# --- sides --------------------------------------------------------------------------------


def _store(address: str, series: Series, limits: Limits) -> None:
    with open_gateway(address, limits=limits) as gateway:
        gateway.store(series.paths)


def _fetch(address: str, series: Series, limits: Limits, folder: Path) -> None:
    with (
        tempfile.TemporaryDirectory(dir=folder) as into,
        open_gateway(address, limits=limits) as gateway,
    ):
        fetched = gateway.fetch(Path(into), study=series.study, series=series.uid)
        assert len(fetched) == len(series.paths)


def _storescu(address: str, series: Series) -> None:
    _run(["storescu", "-xe", "-pdu", "131072", *_peer(address), *map(str, series.paths)])


def _getscu(address: str, series: Series, folder: Path) -> None:
    keys = ["0008,0052=SERIES", f"0020,000D={series.study}", f"0020,000E={series.uid}"]
    with tempfile.TemporaryDirectory(dir=folder) as into:
        _run(
            ["getscu", "-S", "+B", "-pdu", "131072", "-od", into]
            + [word for key in keys for word in ("-k", key)]
            + _peer(address)
        )
        assert len(list(Path(into).iterdir())) == len(series.paths)


def _curl_stow(address: str, body: Path) -> None:
    kind = f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}'
    _run([*_curl(address), "-X", "POST", "-T", str(body), "-H", f"Content-Type: {kind}",
          "-o", "/dev/null", f"{_url(address)}/studies"])  # fmt: skip


def _curl_wado(address: str, series: Series, folder: Path) -> None:
    accept = 'Accept: multipart/related; type="application/dicom"; transfer-syntax=*'
    with tempfile.TemporaryDirectory(dir=folder) as into:
        got = Path(into, "body")
        _run([*_curl(address), "-H", accept, "-H", "Accept-Encoding: identity", "-o", str(got),
              f"{_url(address)}/studies/{series.study}/series/{series.uid}"])  # fmt: skip
        assert got.stat().st_size > series.size


_BOUNDARY = "benchmark"


def _stow_body(series: Series, folder: Path) -> Path:
    body = folder / "body"
    with body.open("wb") as file:
        for path in series.paths:
            file.write(f"\r\n--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode())
            file.write(path.read_bytes())
        file.write(f"\r\n--{_BOUNDARY}--\r\n".encode())
    return body


def _curl(address: str) -> list[str]:
    parsed = parse_address(address)
    assert isinstance(parsed, WebAddress)
    assert parsed.login is not None
    return ["curl", "--silent", "--fail", "--user", parsed.login.read_text().strip()]


def _url(address: str) -> str:
    parsed = parse_address(address)
    assert isinstance(parsed, WebAddress)
    assert urlsplit(parsed.url).hostname == "127.0.0.1"
    return parsed.url


def _peer(address: str) -> list[str]:
    parsed = parse_address(address)
    assert isinstance(parsed, DimseAddress)
    return ["-aet", parsed.calling, "-aec", parsed.called, parsed.host, str(parsed.port)]


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# --- files --------------------------------------------------------------------------------


def _raw_data(folder: Path, name: str, sizes: list[int]) -> Series:
    study = generate_uid()
    into = folder / f"raw-{len(sizes)}"
    into.mkdir()
    series = generate_uid()
    paths = []
    for number, size in enumerate(sizes, start=1):
        ds = _header(RawDataStorage, study, series, number)
        ds.Modality = "OT"
        block = ds.private_block(0x7FDF, "IODEEP", create=True)
        block.add_new(0x10, "OB", np.random.default_rng(number).bytes(size))
        paths.append(_written(ds, into))
    return Series(name=name, study=study, uid=series, paths=paths)


def _slices(folder: Path, name: str, count: int) -> Series:
    study, series = generate_uid(), generate_uid()
    into = folder / "slices"
    into.mkdir()
    paths = []
    for number in range(1, count + 1):
        ds = _header(CTImageStorage, study, series, number)
        ds.Modality = "CT"
        ds.Rows = ds.Columns = 512
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 0, 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.PixelData = np.random.default_rng(number).bytes(512 * 512 * 2)
        paths.append(_written(ds, into))
    return Series(name=name, study=study, uid=series, paths=paths)


def _header(sop_class: UID, study: str, series: str, number: int) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.PatientID, ds.PatientName, ds.StudyID = "BENCH", "BENCH", "1"
    ds.StudyDate, ds.StudyTime = "20260101", "000000"
    ds.SeriesNumber, ds.InstanceNumber = 1, number
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _written(ds: Dataset, folder: Path) -> Path:
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def _copies(series: Series, folder: Path, count: int) -> Iterator[Series]:
    """The same under new UIDs, one after the other, the one before deleted; the making is not
    timed, as each is ready before it is asked for."""
    for _ in range(count):
        with tempfile.TemporaryDirectory(dir=folder) as into:
            uid = generate_uid()
            paths = []
            for path in series.paths:
                ds = dcmread(path)
                ds.SeriesInstanceUID, ds.SOPInstanceUID = uid, generate_uid()
                ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
                paths.append(_written(ds, Path(into)))
            yield Series(name=series.name, study=series.study, uid=uid, paths=paths)


def main(does: str, address: str, folder: Path, study: str, series: str) -> None:
    paths = sorted(folder.glob("*.dcm"))
    when_told()
    found = Series(name="", study=study, uid=series, paths=paths)
    if does == "store":
        _store(address, found, _SEVERAL)
    else:
        _fetch(address, found, _SEVERAL, folder)
    print("done", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5])
