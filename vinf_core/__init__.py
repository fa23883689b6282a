"""A library that generates one long video over a group of ranks: torch inside, no gRPC, no metrics."""
