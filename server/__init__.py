"""What runs at the aggregator and on the researcher's desk: the rounds, the Flower ServerApp."""
