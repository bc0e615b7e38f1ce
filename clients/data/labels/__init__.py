"""Labels of images, out of the objects that hospitals keep them in."""

from clients.data.labels.classes import WantedClass, wanted_by
from clients.data.labels.listed import read_list
from clients.data.labels.reading import read_header, read_labels
from clients.data.labels.segments import LabelHeader, Segment, Wanted

__all__ = [
    "LabelHeader",
    "Segment",
    "Wanted",
    "WantedClass",
    "read_header",
    "read_labels",
    "read_list",
    "wanted_by",
]
