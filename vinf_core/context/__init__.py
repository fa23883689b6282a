"""Our algorithm: partition, halos, dual-scope attention, convolution and norms over clips; installed from outside."""
