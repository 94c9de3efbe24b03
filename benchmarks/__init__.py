"""What paceline costs beside what a user would write instead: ``python -m benchmarks [--quick] [NAME ...]``."""
