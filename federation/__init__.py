"""What hospitals and aggregator must agree on: the IODeep object, its registry, the messages."""
