"""``paceline schema``."""

from __future__ import annotations

from paceline.cli.output import print_json


def schema() -> None:
    """Print the JSON Schema of study files, for editors."""
    from paceline.study import json_schema

    print_json(json_schema())
