"""Classifiers on frozen features, and the figures they are judged by.

Every classifier has `.fit(features (n, D), labels (n,), n_classes, seed) -> self`, `.scores(features (m, D)) ->
(m, n_classes)` and `.details`, a dict of what it chose.
"""
