"""What a network makes of a study, as DICOM beside the images: SEG, and volumes as SR."""

from clients.inference.predictor import Predictor

__all__ = ["Predictor"]
