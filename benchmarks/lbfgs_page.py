"""``python -m benchmarks.lbfgs_page RUN``: the figures of docs/lbfgs.md. RUN is of studies/lbfgs.toml."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.outcome import last_json
from benchmarks.programs import ROOT, run, torchrun
from paceline.optimizers.lbfgs import DistributedLBFGS

NUM_DIGITS, NUM_EVALUATIONS = 500, 80
IMAGES = ROOT / "docs" / "images"
SETTINGS: dict[str, Any] = {"max_iter": 10, "line_search_fn": "strong_wolfe"}


class EnoughError(Exception):
    """So many evaluations were made."""


def rank_side() -> None:
    """One of two ranks; rank 0 prints how far apart their parameters were at each evaluation, naively and by ours."""
    import torch.distributed as dist

    from paceline.train.group import Groups, initialize

    torch.set_num_threads(1)
    initialize(torch.device("cpu"), timeout_s=120)
    ranks = Groups([], torch.device("cpu"), ranks_per_host=2).world
    found: dict[str, Any] = {name: _apart(ranks, naive=name == "naive") for name in ("naive", "ours")}
    if ranks.rank == 0:
        print(json.dumps(found), flush=True)
    dist.barrier()
    os._exit(0)


def _apart(ranks: Any, *, naive: bool) -> dict[str, Any]:
    """Relative distance between the ranks' parameters at each evaluation, and evaluations of each step by rank."""
    from paceline import registry
    from paceline.data.order import rank_part
    from paceline.workloads.base import WorkloadRequest

    workload = registry.resolve("workloads", "logreg-mnist")(WorkloadRequest(dataset="mnist-small"))
    torch.manual_seed(0)
    model: nn.Module = workload.build_model()
    part = np.arange(NUM_DIGITS)[rank_part(NUM_DIGITS, rank=ranks.rank, world_size=2)]
    batch = workload.prepare(workload.batch("train", part, seed=0, epoch=0), ranks.device)
    optimizer: torch.optim.Optimizer
    if naive:
        called: nn.Module = nn.parallel.DistributedDataParallel(model, process_group=ranks.group)
        optimizer = torch.optim.LBFGS(model.parameters(), **SETTINGS)
    else:
        called, optimizer = model, DistributedLBFGS(model.parameters(), process_group=ranks.group, **SETTINGS)
    places: list[Tensor] = []
    steps: list[int] = []

    def closure() -> Any:
        if len(places) == NUM_EVALUATIONS:
            raise EnoughError
        steps[-1] += 1
        optimizer.zero_grad()
        places.append(torch.cat([one.detach().flatten() for one in model.parameters()]))
        loss = workload.loss_sum(called(batch.inputs), batch)
        if naive:
            loss = loss * (2 / NUM_DIGITS)  # DDP takes the mean over ranks
        loss.backward()
        return loss.detach() if naive else (loss.detach(), len(part))

    try:
        while True:
            steps.append(0)
            optimizer.step(closure)
    except Exception:  # the enough of this rank, which ours tells every rank by an error of its own
        if len(places) < NUM_EVALUATIONS:
            raise
    own = torch.stack(places)
    other = own.clone()
    torch.distributed.broadcast(other, src=0, group=ranks.group)
    apart = ranks.maximum((own - other).norm(dim=1) / other.norm(dim=1).clamp(min=1e-12))
    return {"apart": apart.tolist(), "evaluations": ranks.gather(steps)}


def draw(found: dict[str, Any], run_dir: Path) -> None:
    """Write both figures."""
    import altair as alt
    import pandas as pd

    legend = alt.Legend(orient="top", labelLimit=0)

    from paceline.analysis.compare import compare
    from paceline.analysis.load import load

    rows = [
        {"evaluation": number, "apart": max(value, 1e-10), "ranks by": name}
        for name, label in (("naive", "stock DDP, torch's L-BFGS"), ("ours", "DistributedLBFGS"))
        for number, value in enumerate(found[name]["apart"], start=1)
        for name in [label]
    ]
    axis = alt.Axis(
        values=[1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1], labelExpr="datum.value < 1e-9 ? 'none' : format(datum.value, '.0e')"
    )
    alt.Chart(
        pd.DataFrame(rows), width=560, height=240, title="How far two ranks' parameters are apart"
    ).mark_line().encode(
        x=alt.X("evaluation:Q", title="evaluation of loss and gradient"),
        y=alt.Y("apart:Q", title="relative distance", axis=axis, scale=alt.Scale(type="log", domain=[1e-10, 3])),
        color=alt.Color("ranks by:N", title=None, legend=legend, scale=alt.Scale(range=["#0072B2", "#D55E00"])),
    ).configure(background="white").save(IMAGES / "lbfgs-apart.svg")

    rows = [
        {"workload": cell.workload, "optimizer": cell.label, "ranks": cell.num_ranks, "seconds": row.time_to_target_s}
        for cell in compare(load(run_dir)).cells
        for row in cell.trials
        if row.time_to_target_s is not None
    ]
    alt.Chart(pd.DataFrame(rows), width=250, height=150).mark_point(filled=True, opacity=0.6).encode(
        x=alt.X(
            "seconds:Q",
            title="training time to the target, s",
            axis=alt.Axis(values=[0.03, 0.1, 0.3, 1, 3, 10], format="g"),
            scale=alt.Scale(type="log", nice=False, padding=8),
        ),
        y=alt.Y("ranks:O", title="ranks"),
        yOffset="optimizer:N",
        color=alt.Color(
            "optimizer:N",
            title=None,
            legend=legend,
            scale=alt.Scale(range=["#0072B2", "#D55E00", "#009E73", "#CC79A7"]),
        ),
    ).facet(alt.Facet("workload:N", title=None), columns=2).resolve_scale(x="independent").configure(
        background="white"
    ).save(IMAGES / "lbfgs-time.svg")


if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        rank_side()
    else:
        measured = last_json(run(torchrun(2, "benchmarks.lbfgs_page", "--rank")))
        print(measured["naive"]["evaluations"], measured["ours"]["evaluations"])
        draw(measured, Path(sys.argv[1]))
