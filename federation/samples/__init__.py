"""Labelled DICOM for demonstrations and tests, made (phantom) or converted (Decathlon)."""

from federation.samples.case import Case, Problem, UnusableCase
from federation.samples.decathlon import read_manifest
from federation.samples.importer import Quarantined, Stored, import_cases
from federation.samples.phantom import phantom_cases
from federation.samples.task import read_cases

__all__ = [
    "Case",
    "Problem",
    "Quarantined",
    "Stored",
    "UnusableCase",
    "import_cases",
    "phantom_cases",
    "read_cases",
    "read_manifest",
]
