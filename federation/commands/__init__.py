"""The commands of `iodeep` that need neither side."""
