"""Which released network suits an image: by what it says of itself, out of manifests alone."""

from federation.selection.archive import ImageSeries, ReleasedModels, read_image, series_in
from federation.selection.image import ImageFacts, facts_of
from federation.selection.ranking import Model, Selection, Suited, Unsuited, select

__all__ = [
    "ImageFacts",
    "ImageSeries",
    "Model",
    "ReleasedModels",
    "Selection",
    "Suited",
    "Unsuited",
    "facts_of",
    "read_image",
    "select",
    "series_in",
]
