"""A labelled CT from disk to tensors, beside MONAI's reader and SimpleITK; a census of Orthanc."""

import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from torch import Tensor

from benchmarks.measure import begin_when_ready, in_turns, profile, when_told
from benchmarks.table import Row
from federation.config import DataTable, LabelSource, PolicyTable, Split
from federation.pacs import open_gateway
from tests.many import SEGMENTS, write_studies
from tests.peers.orthanc import orthanc
from tests.segs import seg_of

SLICES, EDGE = 200, 512
_TURNS = 5
_SEGMENTS = {"liver": 1, "tumor": 2}
_SEG = "seg.dcm"
_STUDIES = 1000


def rows() -> Iterator[Row]:
    """Each side ends with a float32 image and a label map (1, 2), as tensors."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_labelled_ct(folder)
        ours, monai, itk = in_turns(
            lambda: read_ours(folder),
            lambda: read_monai(folder),
            lambda: read_itk(folder),
            turns=_TURNS,
        )
        what = f"{SLICES} x {EDGE}² CT and SEG to tensors"
        for name, theirs, bound in (("MONAI's PydicomReader", monai, 0.2), ("SimpleITK", itk, 1.2)):
            ratio = ours.over(theirs)
            yield Row(
                what=f"{what} / {name}", value=ratio.median, bound=bound, shown=f"{ratio}"
            ).explained(lambda: profile(lambda: read_ours(folder)))
        command = [sys.executable, "-m", "benchmarks.reading", str(folder)]
        with begin_when_ready(command) as (process, growth):
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
        volume = SLICES * EDGE * EDGE * 4
        yield Row(
            what=f"memory of it / the float32 volume of {volume / 1e6:.0f} MB",
            value=growth[0].bytes / volume,
            bound=1.5,
            shown=f"{growth[0].bytes / 1e6:.0f} MB",
        )
    with tempfile.TemporaryDirectory() as place:
        yield _census(Path(place))


def _census(folder: Path) -> Row:
    """Counting alone: no image is fetched, each SEG is."""
    from clients.census import take_overview
    from clients.data.cache import ExampleCache

    (folder / "key").write_text("benchmark")
    table = DataTable(
        query={"Modality": "MR"},
        labels=LabelSource(map={name: number for number, name in enumerate(SEGMENTS, start=1)}),
        split=Split(key=folder / "key"),
    )
    with orthanc(folder / "orthanc") as archive, open_gateway(archive.dimse) as gateway:
        for paths in write_studies(_STUDIES, {}, folder / "study"):
            gateway.store(paths)
            for path in paths:
                path.unlink()
        cache = ExampleCache(folder / "cache")
        begin = time.perf_counter()
        overview = take_overview(gateway, table, PolicyTable(), cache, sample=0)
        seconds = time.perf_counter() - begin
        assert len(overview.labelled) == _STUDIES
    return Row(
        what=f"census of {_STUDIES} labelled studies in Orthanc",
        value=seconds,
        bound=60,
        unit="s",
        shown=f"{seconds / _STUDIES * 1000:.1f} ms a study, its SEG fetched and read",
    )


# --- sides --------------------------------------------------------------------------------


def read_ours(folder: Path) -> tuple[Tensor, Tensor]:
    """As a site reads a series for training, without the archive."""
    from clients.data.labels import Wanted, read_labels
    from clients.data.volumes import read_volume

    volume = read_volume(_images(folder))
    labels = read_labels([folder / _SEG], volume, Wanted.of(names=_SEGMENTS))
    return torch.from_numpy(volume.voxels), torch.from_numpy(labels)


def read_monai(folder: Path) -> tuple[Tensor, Tensor]:
    """MONAI's LoadImage; its labels have a channel a segment."""
    from monai.data.image_reader import PydicomReader
    from monai.transforms.io.array import LoadImage

    load: Any = LoadImage(reader=PydicomReader(), image_only=True)
    image, segments = load(str(folder / "images")), load(str(folder / _SEG))
    labels = (segments * torch.tensor([1, 2])).amax(dim=-1)
    return image.as_tensor().float(), labels.as_tensor().to(torch.uint8)


def read_itk(folder: Path) -> tuple[Tensor, Tensor]:
    """SimpleITK's series reader; of the SEG, frames in the order that they are stored in."""
    itk: Any = import_module("SimpleITK")
    reader = itk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "images")))
    image = itk.GetArrayFromImage(reader.Execute())
    frames = itk.GetArrayFromImage(itk.ReadImage(str(folder / _SEG)))
    first, second = frames.reshape(2, -1, EDGE, EDGE)
    labels = np.where(second != 0, 2, first != 0).astype(np.uint8)
    return torch.from_numpy(image.astype(np.float32)), torch.from_numpy(labels)


def _images(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


# --- files --------------------------------------------------------------------------------


def write_labelled_ct(folder: Path) -> None:
    """A CT of noise and a SEG of two overlapping-free blocks in every slice."""
    images = folder / "images"
    images.mkdir()
    series = [_slice(height) for height in range(SLICES)]
    for height, ds in enumerate(series):
        ds.save_as(images / f"{height:04d}.dcm", enforce_file_format=True)
    labels = np.zeros((SLICES, EDGE, EDGE), np.uint8)
    labels[:, 100:300, 120:320] = 1
    labels[:, 310:360, 120:170] = 2
    images_read = [dcmread(path) for path in sorted(images.iterdir())]
    seg = seg_of(images_read, labels, _SEGMENTS)
    seg.save_as(folder / _SEG)


def _slice(height: int) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", "1.2.4", "1.2.5"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "B", "B^B", "", ""
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260101", "000000", "1", ""
    ds.ReferringPhysicianName = ""
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", 1, height + 1
    ds.ImagePositionPatient = [0, 0, 1.5 * height]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [0.7, 0.7], 1.5
    ds.Rows = ds.Columns = EDGE
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -24, "HU"
    ds.PixelData = (
        np.random.default_rng(height).integers(-1000, 2000, (EDGE, EDGE), np.int16).tobytes()
    )
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def main(folder: Path) -> None:
    """Read it once when told to: what that takes is measured from outside."""
    from clients.data import volumes  # noqa: F401  # what is imported does not count

    when_told()
    kept = read_ours(folder)
    print("done", flush=True)
    sys.stdin.readline()
    del kept


if __name__ == "__main__":
    main(Path(sys.argv[1]))
