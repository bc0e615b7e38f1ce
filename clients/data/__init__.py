"""Labelled data out of a hospital's PACS: found, decoded, split by patient, cached."""

from clients.data.cache import Example
from clients.data.census import Census, LabelledSeries, find_labelled_series
from clients.data.dataset import LabelledData, load_examples
from clients.data.quarantine import Quarantined, Reason, Unusable
from clients.data.split import Part, create_split_key, part_of

__all__ = [
    "Census",
    "Example",
    "LabelledData",
    "LabelledSeries",
    "Part",
    "Quarantined",
    "Reason",
    "Unusable",
    "create_split_key",
    "find_labelled_series",
    "load_examples",
    "part_of",
]
