"""Video to training data: decoding, optical flow, and the cache on disk. Import from the modules."""
