"""The aggregator's machine: its folder, its sites, and the processes that serve them."""
