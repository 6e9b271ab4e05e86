"""Backbones for any number of bands, their weights files, heads, and the sensor card (which needs no torch)."""
