"""How a hospital joins a federation: its folder, its keys, its request."""
