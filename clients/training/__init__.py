"""Training at a site: tensors in, a better network out. Knows neither Flower nor DICOM."""

from clients.training.metrics import Evaluation
from clients.training.normalisation import names_of_layers
from clients.training.pieces import Example
from clients.training.reproducible import seed_for
from clients.training.trainer import FitResult, Trainer

__all__ = ["Evaluation", "Example", "FitResult", "Trainer", "names_of_layers", "seed_for"]
