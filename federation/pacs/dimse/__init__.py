"""Archives over DICOM associations: asking, and being asked (PS3.7, PS3.8)."""
