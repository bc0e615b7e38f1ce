"""Training at a site: tensors in, a better network out. Knows neither Flower nor DICOM."""

from clients.training.classifier import Classifier
from clients.training.metrics import ClassEvaluation, Evaluation, Measurement
from clients.training.normalisation import names_of_layers
from clients.training.pieces import Example
from clients.training.reproducible import seed_for
from clients.training.segmenter import Segmenter
from clients.training.trainer import FitResult, Trainer

__all__ = [
    "ClassEvaluation",
    "Classifier",
    "Evaluation",
    "Example",
    "FitResult",
    "Measurement",
    "Segmenter",
    "Trainer",
    "names_of_layers",
    "seed_for",
]
