"""Labelled DICOM for demonstrations, made or converted."""
