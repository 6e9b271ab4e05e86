"""Self-supervised methods, one file each, on one small base."""
