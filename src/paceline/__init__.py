"""paceline: which optimizer, on how many ranks, reaches the target soonest, and does it pay to distribute at all?"""

__version__ = "0.1.0"
