"""Video to training data: decoding, optical flow, and the cache on disk.

Import from the modules: ``laparoflow.video.cache`` reads a cache with numpy alone;
``laparoflow.video.prepare`` writes one and needs PyAV and OpenCV.
"""
