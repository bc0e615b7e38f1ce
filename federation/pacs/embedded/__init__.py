"""A small PACS of our own, in a folder."""
