"""Full-duplex voice conversation with NVIDIA's PersonaPlex-7B, from a terminal."""

__version__ = "0.1.0"
