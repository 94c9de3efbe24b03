"""``paceline doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from paceline.launch.doctor import DataWanted


def doctor(
    cluster: Path,
    *,
    data_dir: Path | None = None,
    workload: str | None = None,
    sweep: Annotated[bool, Parameter(negative="--no-sweep", help="time all-reduces between the hosts")] = True,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Examine the hosts of a cluster before a run. Ends with 1 if something would stop or spoil it; the rest warns.

    Parameters
    ----------
    cluster:
        A cluster file, or plain text with a host a line.
    data_dir:
        Where to look for data here first.
    workload:
        Whether hosts have the data of this workload, the same as here.
    json:
        Print one JSON object.
    """
    import tempfile

    from paceline.cli.output import print_json, print_text
    from paceline.cluster import load_cluster
    from paceline.launch.doctor import examine

    wanted = None if workload is None else _data_of(workload, data_dir)
    with tempfile.TemporaryDirectory(prefix="paceline-") as sockets:
        found = examine(load_cluster(cluster), control_dir=Path(sockets), data=wanted, sweep=sweep)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        print_text("\n".join(f"{symptom.word:<15} {symptom.check}: {symptom.evidence}" for symptom in found.findings))
        print_text(f"{len(found.hosts)} hosts examined in {found.wall_time_s:.1f} s")
    return 1 if found.failed else 0


def _data_of(workload: str, data_dir: Path | None) -> DataWanted:
    from paceline.cards import WORKLOADS
    from paceline.errors import UsageError, nearest
    from paceline.launch.doctor import DataWanted

    if workload not in WORKLOADS:
        raise UsageError(f"unknown workload '{workload}': {nearest(workload, WORKLOADS)}")
    return DataWanted(datasets=WORKLOADS[workload].datasets, data_dir=data_dir)
