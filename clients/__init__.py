"""What runs in a hospital: data out of its PACS, training, the Flower ClientApp."""
