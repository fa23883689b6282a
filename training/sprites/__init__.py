"""The embedded model `sprites`: its world, its tracker, its training and its evaluation."""
