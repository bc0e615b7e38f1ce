"""Labels of images, out of the objects that hospitals keep them in."""

from clients.data.labels.reading import read_header, read_labels
from clients.data.labels.segments import LabelHeader, Segment, Wanted

__all__ = ["LabelHeader", "Segment", "Wanted", "read_header", "read_labels"]
