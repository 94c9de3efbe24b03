"""paceline: which optimizer, on how many ranks, reaches the target soonest, and does it pay to distribute at all?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.api import PacelineError, Plots, Results, Study

__version__ = "0.1.0"
__all__ = ["PacelineError", "Plots", "Results", "Study", "__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """What ``paceline.api`` offers, imported when it is first asked for, so that the command line starts fast."""
    if name in __all__:
        from paceline import api

        return getattr(api, name)
    raise AttributeError(f"module 'paceline' has no attribute '{name}'")
