"""What is the choice of the epoch on test images worth? The paper's protocol beside the clean one.

    python experiments/paper/protocol.py --data DIR

The networks of signals.py that are trained, of the first pre-training seed: the paper's linear layer, whose best epoch
of 200 is chosen on half of the test images (`protocol=paper`), beside the same layer after its last epoch. Nothing is
pre-trained here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import signals
from runs import TS, Row, Table, command_line, numbers
from tables import Rows, markdown, spread, values


class Protocol(signals.Signals):
    """Evaluates by the paper's protocol."""

    def more(self, found: dict[str, Any]) -> Row:
        details = found["details"]
        return {"epoch": details["epoch"], "oa_last_epoch": f"{details['oa_last_epoch']:.4f}"}


def table(options: argparse.Namespace) -> Table:
    return Table(options.csv / "protocol.csv", signals.KEYS)


def protocol_table(folder: Path) -> str:
    """Question 4: the choice on test images in points, by network."""
    paper = table(signals.planned(folder)).rows()
    clean = {tuple(r[k] for k in signals.KEYS): r for r in signals.table(signals.planned(folder)).rows()}
    cells: dict[tuple[str, str], Rows] = {}
    for row in paper:
        cells.setdefault((row["method"], row["network"]), []).append(row)
    lines = []
    for cell, found in sorted(cells.items()):
        line = [*cell]
        for ts in TS:
            at = [r for r in found if r["ts"] == str(ts)]
            ours = [clean[k] for r in at if (k := tuple(r[k] for k in signals.KEYS)) in clean]
            line += [spread(values(at)), spread(worth(at), "+"), spread(values(ours))]
        lines.append(line)
    columns = [f"{ts}: {name}" for ts in TS for name in ("paper", "choice", "rsssl")]
    every = ", ".join(f"{spread(worth([r for r in paper if r['ts'] == str(ts)]), '+')} with {ts} labels" for ts in TS)
    sentence = f"{len(paper)} runs by the paper's protocol are there. The choice adds, over all of them: {every}."
    return markdown(["method", "network", *columns], lines, 2) + "\n\n" + sentence


def worth(rows: Rows) -> list[float]:
    """Points that the choice of the epoch on test images adds."""
    return [a - b for a, b in zip(values(rows), values(rows, "oa_last_epoch"), strict=True)]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--pretrain-seeds", type=numbers, default=[0], help="of the pre-training, as 0,1,2")
    options = parser.parse_intermixed_args()
    clean = signals.table(options)
    trained = [n for n in signals.networks(options) if clean.find(**n.says) and n.says["method"] != signals.STATISTICS]
    like = signals.bench(options, table(options))
    bench = Protocol(options, like.results, like.costs, like.trainings, like.common, like.places)
    bench.all([n.with_test("protocol=paper") for n in trained])


if __name__ == "__main__":
    main()
