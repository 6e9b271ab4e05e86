"""Windows: every pixel is covered, blocks share nothing, and blending equals a loop over windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsssl.geo.classified import Classified
from rsssl.geo.windows import Blender, Layout, kernel

layouts = st.builds(
    lambda h, w, window, share: Layout(h, w, window, max(1, round(window * share))),
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 64),
    st.sampled_from([0.25, 0.5, 0.75, 1.0]),
)


@settings(max_examples=60, deadline=None)
@given(layouts)
def test_blocks_have_every_window_and_every_pixel_once(layout: Layout) -> None:
    pixels = np.zeros((layout.height, layout.width), int)
    windows = np.zeros(layout.shape, int)
    covered = np.zeros((layout.height, layout.width), bool)
    for i in range(layout.blocks[0] * layout.blocks[1]):
        block = layout.block(i)
        y, x, h, w = block.own
        assert h >= 0 and w >= 0
        pixels[y : y + h, x : x + w] += 1
        windows[block.row : block.row + block.rows, block.col : block.col + block.cols] += 1
        y, x, h, w = block.region
        covered[y : y + h, x : x + w] = True
        oy, ox, oh, ow = block.own  # read with the region, so inside it
        assert y <= oy and x <= ox and oy + oh <= y + h and ox + ow <= x + w
    assert (pixels == 1).all() and (windows == 1).all() and covered.all()


@settings(max_examples=25, deadline=None)
@given(layouts, st.integers(0, 10_000))
def test_blending_equals_a_loop_over_windows(layout: Layout, seed: int) -> None:
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(3), layout.shape).astype(np.float32)
    weight = random.choice([0.0, 0.3, 1.0], layout.shape).astype(np.float32)
    weight[0, 0] = max(weight[0, 0], 0.3)
    valid = random.random((layout.height, layout.width)) < 0.8

    def load(i: int) -> Classified:
        b = layout.block(i)
        y, x, h, w = b.own
        part = slice(b.row, b.row + b.rows), slice(b.col, b.col + b.cols)
        return Classified.from_bytes(Classified(shares[part], weight[part], valid[y : y + h, x : x + w]).to_bytes())

    k = kernel(layout.window).astype(float)
    far = layout.window + max(layout.shape) * layout.stride + 400
    total, sums = np.zeros((far, far)), np.zeros((3, far, far))
    for i in range(layout.shape[0]):
        for j in range(layout.shape[1]):
            window = (
                slice(i * layout.stride, i * layout.stride + layout.window),
                slice(j * layout.stride, j * layout.stride + layout.window),
            )
            total[window] += np.outer(k, k) * weight[i, j]
            sums[(slice(None), *window)] += np.outer(k, k) * weight[i, j] * shares[i, j][:, None, None]
    total, sums = total[: layout.height, : layout.width], sums[:, : layout.height, : layout.width]
    blender = Blender(layout, load, 3, 255)
    whole = blender.blend(0, 0, layout.height, layout.width, probabilities=True)
    assert whole.probabilities is not None
    seen = valid & (total > 0)
    expected = sums[:, seen] / total[seen]
    np.testing.assert_allclose(whole.probabilities[:, seen], expected, atol=1e-5)
    np.testing.assert_array_equal(whole.classes == 255, ~valid)
    first, second = np.sort(expected, axis=0)[-1:-3:-1]
    clear = first - second > 1e-4
    np.testing.assert_array_equal(whole.classes[seen][clear], expected.argmax(0)[clear])
    np.testing.assert_allclose(whole.confidence[seen], first, atol=1e-5)
    # a part of it, cut anywhere, is the part of the whole
    y, x = random.integers(0, layout.height), random.integers(0, layout.width)
    h, w = random.integers(1, layout.height - y + 1), random.integers(1, layout.width - x + 1)
    part = blender.blend(int(y), int(x), int(h), int(w))
    agree = part.classes == whole.classes[y : y + h, x : x + w]
    gap = np.full(seen.shape, True)
    gap[seen] = clear
    assert agree[gap[y : y + h, x : x + w]].all()


@pytest.mark.parametrize("valid", [np.ones((3, 5), bool), np.zeros((3, 5), bool), np.eye(7, dtype=bool)])
def test_a_part_comes_back_from_its_bytes(valid: np.ndarray) -> None:
    part = Classified(np.random.default_rng(0).random((2, 3, 4), np.float32), np.ones((2, 3), np.float32), valid)
    back = Classified.from_bytes(part.to_bytes())
    for a, b in zip(
        (part.probabilities, part.weight, part.valid), (back.probabilities, back.weight, back.valid), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_sets_and_unlikeness_are_blended_as_probabilities_are() -> None:
    layout = Layout(70, 90, 16, 8)
    draw = np.random.default_rng(0)
    rows, cols = layout.shape
    p = draw.dirichlet(np.ones(5), (rows, cols)).astype(np.float32)
    unlike = draw.random((rows, cols, 2)).astype(np.float32)
    weight = draw.uniform(0.5, 1, (rows, cols)).astype(np.float32)

    def load(number: int) -> Classified:
        block = layout.block(number)
        of = np.s_[block.row : block.row + block.rows, block.col : block.col + block.cols]
        return Classified(p[of], weight[of], np.ones(block.own[2:], bool), unlike[of])

    least = np.array([0.1, 0.2, 0.3, 0.15, 0.25], np.float32)
    blended = Blender(layout, load, 5, 255, least).blend(5, 7, 40, 50, probabilities=True)
    assert blended.probabilities is not None and blended.plausible is not None and blended.unlike is not None
    assert np.array_equal(blended.plausible, (blended.probabilities >= least[:, None, None]).sum(0))
    line = kernel(16)
    for y, x in draw.integers(0, 40, (30, 2)):
        sums, total = np.zeros(2), 0.0
        for r in range(rows):
            for c in range(cols):
                dy, dx = y + 5 - 8 * r, x + 7 - 8 * c
                if 0 <= dy < 16 and 0 <= dx < 16:
                    w = line[dy] * line[dx] * weight[r, c]
                    sums, total = sums + w * unlike[r, c], total + w
        np.testing.assert_allclose(blended.unlike[:, y, x], sums / total, rtol=1e-4)
