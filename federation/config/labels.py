"""``labels`` of a data table: what holds labels, and which means what."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, model_validator

from federation.task import TaskName
from federation.values import Value


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class LabelSource(Value):
    """What holds labels, and which name there means which output label.

    source: for segmentation ``SEG`` or ``RTSTRUCT``, for classification ``SR`` or ``CSV``; or both
            in order of preference
    file:   of ``CSV``: its columns are ``label`` and one of ``series``, ``study`` (UIDs) and
            ``patient_id``
    map:    what the site calls an output label, by its number: a segment's label, its coded
            meaning, or a code as "SCT:10200004"; an SR's value, or a row's ``label``. What has the
            network's own code, or name, needs no entry. 0, for classification, is none of them
    """

    source: Annotated[
        tuple[Literal["SEG", "RTSTRUCT", "SR", "CSV"], ...],
        BeforeValidator(_several),
        Field(min_length=1),
    ] = ("SEG", "RTSTRUCT")
    file: Path | None = None
    map: dict[str, NonNegativeInt] = {}

    @property
    def task(self) -> TaskName:
        """The task that such labels are for."""
        return "segmentation" if {"SEG", "RTSTRUCT"} & set(self.source) else "classification"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.task == "segmentation" and {"SR", "CSV"} & set(self.source):
            raise ValueError(
                "SEG and RTSTRUCT draw labels, SR and CSV name an image's class: a table has "
                "sources of one kind"
            )
        if ("CSV" in self.source) != (self.file is not None):
            raise ValueError('source = "CSV" and file = "labels.csv" go together')
        if self.task == "segmentation" and 0 in self.map.values():
            raise ValueError("map gives a segment the label 0, which is background; from 1 on")
        return self
