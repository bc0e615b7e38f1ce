"""The hippocampus task of the Medical Segmentation Decathlon as cases of several hospitals.

Task04: Antonelli M. et al., Nature Communications 13, 4128 (2022); Simpson A. L. et al.,
arXiv:1902.09063. A folder holds the task's NIfTI files and a ``manifest.csv`` that says which
hospital and part each case belongs to, whose it is, and the SHA-256 of its files.
"""

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast, get_args

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from federation.errors import ConfigError, DataError
from federation.samples.case import Anatomy, Case, Part, Plane, Segment
from federation.samples.nifti import NiftiCase, inside

MANIFEST = "manifest.csv"
COLUMNS = (
    "site",
    "split",
    "case",
    "subject",
    "patient_id",
    "image",
    "label",
    "sha256_image",
    "sha256_label",
)
HIPPOCAMPUS = Anatomy(
    body_part="HIPPOCAMPUS",
    region=cast(Code, codes.SCT.Hippocampus),
    paired=True,
    segments=tuple(
        Segment(
            number=number,
            name=f"{modifier.meaning} hippocampus",
            category=cast(Code, codes.SCT.AnatomicalStructure),
            kind=cast(Code, codes.SCT.Hippocampus),
            modifier=modifier,
        )
        for number, modifier in enumerate(
            (cast(Code, codes.SCT.Anterior), cast(Code, codes.SCT.Posterior)), start=1
        )
    ),
)
_PATIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NUMBER = re.compile(r"\d+$")


def read_manifest(folder: Path) -> list[Case]:
    """The cases that ``folder/manifest.csv`` names, in its order; no image is opened.

    Raises :class:`ConfigError` where the folder or its manifest is missing, and
    :class:`DataError`, with the line, where the manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigError(
            f"{folder} holds no {MANIFEST}; expected a folder of labelled NIfTI files"
        )
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise DataError(f"{path} lacks the columns {', '.join(missing)}")
            cases = [_read_row(row, folder, f"{path} line {rows.line_num}") for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error
    if not cases:
        raise DataError(f"{path} names no case")
    _refuse_repeated(cases, path)
    return cases


def _read_row(row: Mapping[str, str | None], folder: Path, where: str) -> Case:
    values = {name: (row.get(name) or "").strip() for name in (*COLUMNS, "plane")}
    empty = [name for name in COLUMNS if not values[name]]
    if empty:
        raise DataError(f"{where}: no value for {', '.join(empty)}")
    if values["split"] not in get_args(Part):
        raise DataError(f"{where}: split is {values['split']!r}; expected train or test")
    plane = values["plane"] or "axial"
    if plane not in get_args(Plane):
        raise DataError(
            f"{where}: plane is {plane!r}; expected one of {', '.join(get_args(Plane))}"
        )
    if not _PATIENT_ID.fullmatch(values["patient_id"]):
        raise DataError(f"{where}: patient_id holds other than letters, digits and . _ -")
    number = _NUMBER.search(values["case"])
    return NiftiCase(
        collection="MSD Task04 Hippocampus",
        site=values["site"],
        split=cast(Part, values["split"]),
        name=values["case"],
        patient_id=values["patient_id"],
        study=values["subject"],
        # Cases 2n-1 and 2n are the two hippocampi of one patient: series 1 and 2 of one study.
        series_number=2 - int(number.group()) % 2 if number else 1,
        anatomy=HIPPOCAMPUS,
        plane=cast(Plane, plane),
        image=inside(folder, values["image"], where),
        label=inside(folder, values["label"], where),
        sha256_image=values["sha256_image"].lower(),
        sha256_label=values["sha256_label"].lower(),
        label_values=tuple(segment.number for segment in HIPPOCAMPUS.segments),
    )


def _refuse_repeated(cases: Iterable[Case], path: Path) -> None:
    seen: set[str] = set()
    parts: dict[str, str] = {}
    for case in cases:
        if case.name in seen:
            raise DataError(f"{path} names case {case.name} twice")
        seen.add(case.name)
        if parts.setdefault(case.patient_id, case.split) != case.split:
            raise DataError(f"{path}: the patient of case {case.name} is in both train and test")
