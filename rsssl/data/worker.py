"""A decoding process: the plan on standard input as a line of JSON, then "start stop" lines; a line of JSON back for each.

Plain subprocesses instead of multiprocessing: the parent's main script is not imported again (it may hold torch),
scripts need no `__main__` guard, and a worker whose parent was killed sees its input end and leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import Any

from rsssl.data.chunks import Plan, do_chunk
from rsssl.errors import UserError


class Died(Exception):
    """The worker ended without an answer (out of memory, killed)."""


class Worker:
    """The parent's end of one decoding process."""

    def __init__(self, plan: Plan) -> None:
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(p or os.getcwd() for p in sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._plan: bytes | None = (plan.to_json() + "\n").encode()

    def do(self, start: int, stop: int) -> dict[str, Any]:
        """`do_chunk` in the worker. Raises what it raised, or Died."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write((self._plan or b"") + f"{start} {stop}\n".encode())
            self._process.stdin.flush()
            self._plan = None
            line = self._process.stdout.readline()
            record: dict[str, Any] = json.loads(line)
        except (OSError, ValueError) as error:
            raise Died from error
        if "errno" in record:
            raise OSError(record["errno"], record["text"])
        if "text" in record:
            raise UserError(record["text"])
        record["bad"] = {int(i): reason for i, reason in record["bad"].items()}
        return record

    def close(self) -> None:
        """End the process (it finishes nothing: what it has not reported does not count)."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # what was left in its buffer is of no use any more
                pipe.close()


def main() -> None:
    """The worker's end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not end up among the answers
    plan = Plan.from_json(sys.stdin.buffer.readline().decode())
    for line in sys.stdin.buffer:
        start, stop = map(int, line.split())
        record: dict[str, Any]
        try:
            record = do_chunk(plan, start, stop)
        except OSError as error:
            record = {"errno": error.errno, "text": error.strerror}
        except UserError as error:
            record = {"text": str(error)}
        print(json.dumps(record), file=answers, flush=True)


if __name__ == "__main__":
    main()
