from __future__ import annotations

from collections.abc import Iterator

import pytest

from rsssl.augment import ops


@pytest.fixture(autouse=True, scope="module", params=["compiled", "torch"])
def loops(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here runs with the compiled loops of the CPU and with the torch code of accelerators."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(ops, "_compiled", lambda name: None)
        else:
            assert ops._compiled("on_cpu") is not None
        yield request.param
