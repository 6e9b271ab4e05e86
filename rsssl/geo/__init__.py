"""Georeferenced prediction over large scenes: windows of a scene, maps and what is measured on them."""
