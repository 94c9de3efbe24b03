"""``python -m paceline.train.describe``: facts of workloads that only their own code can tell.

Standard input holds ``data_dir`` and ``workloads``: label -> settings. Standard output gets label -> facts, and nothing
that the workloads' code prints. The host side, which never imports torch, starts this for workloads from outside.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from paceline.errors import PacelineError
from paceline.study_tables import WorkloadEntry
from paceline.train.worker import end_with_parent, open_workload


def main() -> int:
    """Answer what standard input asks; returns the exit code."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        json.dump(_facts(json.load(sys.stdin)), answers)
        answers.close()
    except PacelineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _facts(asked: dict[str, Any]) -> dict[str, Any]:
    facts = {}
    for label, settings in asked["workloads"].items():
        workload = open_workload(WorkloadEntry.model_validate(settings), asked["data_dir"])
        facts[label] = {
            "dataset": workload.dataset,
            "data_digest": workload.data_digest,
            "target": workload.target.to_dict(),
        }
    return facts


if __name__ == "__main__":
    sys.exit(main())
