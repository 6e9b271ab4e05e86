"""Names of bands: colours, one sensor's among another's, and what people are shown."""

from __future__ import annotations

import pytest

from rsssl.models.bands import places, plain_names, shown_bands, tell_unknown

SENTINEL2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")


def test_names_of_bands() -> None:
    assert plain_names(["R", "g ", "Blue", "NIR"]) == ["red", "green", "blue", "nir"]
    assert plain_names(["B02", "B03", "B04", "B08"]) == ["blue", "green", "red", "b08"]
    assert plain_names(["B1", "B2", "B3"]) == ["b1", "b2", "b3"], "Landsat counts so too, and its B3 is red"
    assert plain_names(["B1", "B2", "B8A"]) == ["b01", "blue", "b8a"]
    assert places(["red", "green", "blue"], SENTINEL2) == [None, 2, 1, 0, *[None] * 9]


def test_bands_are_shown_by_their_names() -> None:
    assert shown_bands(["B01", "B02", "B03", "B04"]) == [3, 2, 1]
    assert shown_bands(["Blue", "green", "RED", "nir"]) == [2, 1, 0]
    assert shown_bands(["vv", "vh"]) == [0, 0, 0] and shown_bands(["x", "y", "z", "w"]) == [0, 1, 2]


def test_bands_that_a_start_does_not_know_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for _ in range(3):
        tell_unknown(("nir", "a band of this test alone"))
        tell_unknown(())
    assert len(caplog.messages) == 1 and "nir, a band of this test alone" in caplog.messages[0]
