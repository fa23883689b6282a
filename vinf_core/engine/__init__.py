"""Commands that cross ranks, the generator every rank runs, and the loop around it."""
