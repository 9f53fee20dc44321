"""One benchmark against every peer: ``python -m benchmarks``; see README.md here for how to read it and add a peer."""
