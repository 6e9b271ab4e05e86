"""Trained networks: how they are kept, loaded, exported and put to work on a scene."""
