"""Self-supervised pre-training and few-label scene classification for Earth observation."""

__version__ = "0.1.0"
