"""What is the choice of the epoch on test images worth? The paper's protocol beside the clean one.

    python experiments/paper/protocol.py --data DIR

The networks of signals.py that are trained: the paper's linear layer, whose best epoch of 200 is chosen on half of the
test images (`protocol=paper`), beside the same layer after its last epoch. Nothing is pre-trained here.
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
        cells.setdefault((row["method"], row["start"]), []).append(row)
    lines = []
    for (method, start), found in [*sorted(cells.items()), (("all", ""), paper)]:
        line = [method, start]
        for ts in TS:
            at = [r for r in found if r["ts"] == str(ts)]
            worth = [100 * (float(r["oa"]) - float(r["oa_last_epoch"])) for r in at]
            ours = [100 * float(clean[k]["oa"]) for r in at if (k := tuple(r[k] for k in signals.KEYS)) in clean]
            line += [
                *(spread(part) for part in (values(at), values(at, "oa_last_epoch"))),
                spread(worth, "+"),
                spread(ours),
            ]
        lines.append(line)
    columns = [f"{ts}: {name}" for ts in TS for name in ("paper", "last epoch", "choice", "rsssl")]
    return (
        markdown(["method", "start", *columns], lines, 2) + f"\n\n{len(paper)} runs by the paper's protocol are there."
    )


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--pretrain-seeds", type=numbers, default=[0, 1, 2], help="of the pre-training, as 0,1,2")
    options = parser.parse_intermixed_args()
    clean = signals.table(options)
    trained = [n for n in signals.networks(options) if clean.find(**n.says) and n.says["method"] != signals.STATISTICS]
    like = signals.bench(options, table(options))
    bench = Protocol(options, like.results, like.costs, like.trainings, like.common, like.places)
    bench.all([n.with_test("protocol=paper") for n in trained])


if __name__ == "__main__":
    main()
