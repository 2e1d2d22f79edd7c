"""What the mixture loop costs: `make bench`."""
