"""``python -m paceline.train.describe FILE``: facts of workloads that only their own code can tell.

FILE holds ``data_dir`` and ``workloads``: label -> settings. It is replaced by label -> facts. The host side, which
never imports torch, starts this for workloads from outside.
"""

from __future__ import annotations

import sys
from pathlib import Path

from paceline.errors import PacelineError
from paceline.records import read_json, write_json
from paceline.study_tables import WorkloadEntry
from paceline.train.worker import open_workload


def main() -> int:
    """Answer the requests in the file named on the command line; returns the exit code."""
    try:
        _answer(Path(sys.argv[1]))
    except PacelineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _answer(path: Path) -> None:
    asked = read_json(path)
    facts = {}
    for label, settings in asked["workloads"].items():
        workload = open_workload(WorkloadEntry.model_validate(settings), asked["data_dir"])
        facts[label] = {
            "dataset": workload.dataset,
            "data_digest": workload.data_digest,
            "target": workload.target.to_dict(),
        }
    write_json(path, facts)


if __name__ == "__main__":
    sys.exit(main())
