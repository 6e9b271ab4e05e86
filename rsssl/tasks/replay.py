"""`task=replay`: takes a step again that was not finite, and says which images, which layer and which gradients it
was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rsssl.engine.run import Run
from rsssl.tasks.pipeline import Pipeline


@dataclass
class Replay(Pipeline):
    """Its keys are those of the command that failed: type that command, all of it, with task=replay added."""

    def run(self, run: Run) -> dict[str, Any]:
        """Replays the step that the training kept; prints what it was and writes replay.json.

        Raises:
            UserError: when the training kept no such step.
        """
        from rsssl.engine.files import write_json
        from rsssl.networks.replaying import print_replay, replay_failure

        results = replay_failure(self, self.dataset, run)
        file = run.record("replay.json")
        write_json(file, results)
        print_replay(results, file)
        return results
