"""The training loop and what keeps its work: store, checkpoints, trackers, monitors."""
