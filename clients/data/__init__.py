"""Labelled data out of a hospital's PACS: found, decoded, split by patient, cached."""
