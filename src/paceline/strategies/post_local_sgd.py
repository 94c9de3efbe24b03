"""Post-local SGD: gradients are added up over ranks at first, and later ranks train by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from paceline.strategies.flat import Flat
from paceline.strategies.local_sgd import LocalSgd
from paceline.strategies.ranks import Traffic
from paceline.workloads.base import Batch


class PostLocalSgd(LocalSgd):
    """The first ``start`` updates take the gradient of the global batch, as ``flat`` does; then it is local SGD.

    Source: Lin et al. 2020, "Don't Use Large Mini-batches, Use Local SGD".
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.divides_by = "global"
        self._together = Flat(**arguments)

    def objective(self, micro_batches: Sequence[Batch], *, num_examples: float) -> Tensor:
        """See the base class."""
        if self.divides_by == "own":
            return super().objective(micro_batches, num_examples=num_examples)
        loss = self._together.objective(micro_batches, num_examples=num_examples)
        self.outputs = self._together.outputs
        return loss

    def after_update(self, num_updates: int) -> None:
        """Meet, if it is time; part, if it is time."""
        super().after_update(num_updates)
        if num_updates == self.settings["start"]:
            self.divides_by = "own"

    def next_meeting(self, num_updates: int) -> int:
        """See the base class: before they part, ranks wait for each other in each update."""
        start = int(self.settings["start"])
        return num_updates + 1 if num_updates < start else start + super().next_meeting(num_updates - start)

    def num_meetings(self, num_updates: int) -> int:
        """Counted from when ranks part."""
        return super().num_meetings(max(0, num_updates - self.settings["start"]))

    def expected_traffic(self, num_updates: int) -> Traffic:
        """That of ``flat`` in the first updates, then that of local SGD."""
        early = self._together.expected_traffic(min(num_updates, self.settings["start"]))
        late = super().expected_traffic(num_updates)
        return Traffic(
            bytes_sent=early.bytes_sent + late.bytes_sent, num_collectives=early.num_collectives + late.num_collectives
        )

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"divides_by": self.divides_by}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See the base class."""
        self.divides_by = state["divides_by"]
