"""Archives over HTTP: DICOMweb (PS3.18)."""
