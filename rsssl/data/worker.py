"""A decoding process: it reads the plan as a line of JSON, then lines [start, stop, items], and answers each with a
line of JSON.

Plain subprocesses instead of multiprocessing: the parent's main script is not imported again (it may hold torch),
scripts need no `__main__` guard, and a worker whose parent was killed sees its input end and leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rsssl.data.chunks import Plan, do_chunk
from rsssl.errors import UserError


class Died(Exception):
    """The worker ended without an answer (out of memory, killed)."""


class Worker:
    """The parent's end of one decoding process."""

    def __init__(self, plan: Plan) -> None:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._unsent = (plan.to_json() + "\n").encode()

    def do(self, start: int, stop: int, items: Sequence[Any]) -> dict[str, Any]:
        """`do_chunk` in the worker.

        Raises:
            Died: when the worker ended without an answer.
            OSError, UserError: as `do_chunk` did.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(self._unsent + json.dumps([start, stop, items]).encode() + b"\n")
            self._process.stdin.flush()
            self._unsent = b""
            record: dict[str, Any] = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise Died from error
        if "errno" in record:
            raise OSError(record["errno"], record["text"])
        if "text" in record:
            raise UserError(record["text"])
        return record

    def close(self) -> None:
        """End the process at once: a chunk that it has not reported does not count."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # bytes left in the buffer are not needed any more
                pipe.close()


def main() -> None:
    """Runs in the worker's process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    plan = Plan.from_json(sys.stdin.buffer.readline().decode())
    for line in sys.stdin.buffer:
        record: dict[str, Any]
        try:
            record = do_chunk(plan, *json.loads(line))
        except OSError as error:
            record = {"errno": error.errno, "text": error.strerror}
        except UserError as error:
            record = {"text": str(error)}
        print(json.dumps(record), file=answers, flush=True)


if __name__ == "__main__":
    main()
