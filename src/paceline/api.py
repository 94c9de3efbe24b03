"""What ``import paceline`` offers: run a study and look at its results, from Python and in notebooks.

A study's ranks are processes of their own, as from the command line: optimizers and models of one's own must lie in a
module that these can import (``"mymodule:build"``), not in the notebook.
"""

from __future__ import annotations

import copy
import html
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.errors import PacelineError, UsageError, nearest

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from paceline.analysis.compare import Comparison
    from paceline.analysis.load import Run
    from paceline.plan.jobs import Watcher
    from paceline.study import Study as Settings

__all__ = ["PacelineError", "Plots", "Results", "Study"]


class Study:
    """A study, ready to be run: ``Study("study.toml")``, or ``Study({"name": "mine", "optimizers": {...}, ...})``.

    Args:
        source: a study file, or the settings that would stand in one.
        overrides: settings to replace, as after ``--set``: ``["max_epochs=1", "optimizers.adam.lr=0.01"]``.
    Raises: UsageError that lists every mistake with its path.
    """

    def __init__(self, source: str | Path | Mapping[str, Any], *, overrides: Sequence[str] = ()) -> None:
        from paceline import study

        self._file = None if isinstance(source, Mapping) else Path(source)
        settings = copy.deepcopy(dict(source)) if isinstance(source, Mapping) else study.read_settings(Path(source))
        for override in overrides:
            study.apply_override(settings, override)
        self.settings: Settings = study.validate(settings, source=str(self._file or "settings"))

    @property
    def name(self) -> str:
        """The study's name, which is that of its folder of results as well."""
        return self.settings.name

    def run(
        self,
        *,
        runs: str | Path = "runs",
        data_dir: str | Path | None = None,
        cluster: str | Path | None = None,
        check: bool = True,
        progress: bool = True,
    ) -> Results:
        """Run what is left of the study, as ``paceline run`` does; trials that are done are not repeated.

        Args:
            runs: folder of all runs; this one goes to ``RUNS/NAME``.
            data_dir: where to look for data first.
            cluster: a cluster file or a list of hosts; left out, what the study file says, or this machine.
            check: check the study before its first trial.
            progress: print a line on standard error for each trial that ends.
        Raises: UsageError, DataError before anything is started; PacelineError if a check fails or the ranks cannot be
            kept alive. What is done by then is kept, and running again goes on.
        """
        from paceline.cli.progress import PlainWatcher
        from paceline.cluster import THIS_HOST, cluster_of, load_cluster
        from paceline.plan.jobs import Silence
        from paceline.plan.run import run_study

        given = None if cluster is None else Path(cluster)
        here = THIS_HOST if given is None else load_cluster(given)
        watcher: Watcher = PlainWatcher(of_evaluations=False) if progress else Silence()
        result = run_study(
            self.settings,
            runs_dir=Path(runs),
            data_dir=None if data_dir is None else Path(data_dir),
            watcher=watcher,
            check=check,
            cluster=here if self._file is None else cluster_of(self._file, given),
        )
        return Results(result.run_dir)

    def results(self, *, runs: str | Path = "runs") -> Results:
        """What a run of this study has measured so far.

        Raises: UsageError if it has not been run in ``runs``.
        """
        return Results(Path(runs) / self.name)

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {self.settings.num_cells} cells, {len(self.settings.seeds)} seeds)"


class Results:
    """What a run measured, as it was when first asked for: ``Results("runs/demo")``.

    In a notebook it shows itself as the verdict and a table of cells.
    Raises: UsageError, DataError if the folder holds no run, or a damaged one.
    """

    def __init__(self, folder: str | Path) -> None:
        from paceline.analysis.load import load

        self.folder = Path(folder)
        self.run: Run = load(self.folder)

    @cached_property
    def comparison(self) -> Comparison:
        """All cells beside each other, with every number that the report shows.

        Raises: UsageError if the trials are not alike; it names the difference.
        """
        from paceline.analysis.compare import compare

        return compare(self.run)

    @property
    def verdict(self) -> str:
        """The answer in words, a line for each workload; it says where there is none, and why."""
        return "\n".join(one.verdict for one in self._answers)

    @cached_property
    def _answers(self) -> list[Any]:
        from paceline.report import answers

        return answers.answers(self.comparison)

    @property
    def plot(self) -> Plots:
        """The report's figures."""
        return Plots(self)

    def to_pandas(self) -> pd.DataFrame:
        """One row a trial: its cell, its way to the target (missing where not reached), its last scores.

        Times are seconds of training; see ``evaluations`` for the learning curves.
        """
        from paceline.analysis.frames import trials_frame

        return trials_frame(self.comparison)

    def evaluations(self) -> pd.DataFrame:
        """One row for each evaluation, split and metric (long form), with the totals since the trial began."""
        from paceline.analysis.frames import evaluations_frame

        return evaluations_frame(self.run)

    def to_parquet(self, folder: str | Path) -> list[Path]:
        """Write ``trials.parquet`` and ``evaluations.parquet``; returns their paths."""
        from paceline.report.export import export

        return export(self.folder, to="parquet", out=Path(folder))

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML report, to ``RUN/report.html`` if no path is given; returns its path."""
        from paceline.report.render import write

        return write(self.run, self.comparison, self.folder / "report.html" if path is None else Path(path))

    def __repr__(self) -> str:
        return f"Results({str(self.folder)!r}): {self.verdict}"

    def _repr_html_(self) -> str:
        from paceline.inert import inert
        from paceline.report import tables

        def text(value: str) -> str:
            return html.escape(inert(value))

        columns = tables.page_columns(self.comparison)
        parts = []
        for answer in self._answers:
            head = "".join(f"<th>{text(column.head)}</th>" for column in columns)
            rows = "".join(
                f"<tr>{''.join(f'<td>{text(column.show(cell))}</td>' for column in columns)}</tr>"
                for cell in self.comparison.of(answer.workload)
            )
            told = "".join(f"<p>{text(one)}</p>" for one in (answer.measured, answer.distributing) if one)
            table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            parts.append(f"<p><strong>{text(answer.verdict)}</strong></p>{told}{table}")
        return "".join(parts)


class Plots:
    """The figures of a report as Altair charts, which notebooks draw; ``workload`` may be left out where there is one.

    Raises: UsageError for a workload or figure that the run does not have.
    """

    def __init__(self, results: Results) -> None:
        self._results = results

    def curves(self, workload: str | None = None, *, of: str = "metric", against: str = "time") -> alt.Chart:
        """Learning curves: ``of`` the validation ``"metric"`` or the training ``"loss"``, ``against`` training
        ``"time"`` (s) or ``"updates"``."""
        return self.figure(f"{of}-{against}", workload)

    def time_to_target(self, workload: str | None = None) -> alt.Chart:
        """When each seed of each cell reached the target, in seconds of training."""
        return self.figure("time-to-target", workload)

    def comparisons(self, workload: str | None = None) -> alt.Chart:
        """The declared comparisons: how many times as fast, with 95 % intervals."""
        return self.figure("intervals", workload)

    def figure(self, name: str, workload: str | None = None) -> alt.Chart:
        """Any figure of the report by its name, such as ``"time-split"`` or ``"scaling"``."""
        import altair as alt

        from paceline.report import figures
        from paceline.report.pen import FILE, standalone

        comparison = self._results.comparison
        wanted = workload or next(iter(comparison.workloads))
        if wanted not in comparison.workloads or (workload is None and len(comparison.workloads) > 1):
            raise UsageError(f"which workload? {nearest(workload or '', comparison.workloads)}")
        made = figures.figures(comparison, wanted, self._results.run.results, FILE)
        found = {one.name: one for one in made.figures}
        if name not in found:
            raise UsageError(f"this run has no figure '{name}': {nearest(name, found)}")
        chart: alt.Chart = alt.Chart.from_dict(standalone(found[name], made.rows[found[name].data]))
        return chart
