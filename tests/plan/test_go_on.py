"""A run folder that somebody else made starts nothing of his."""

import json
import platform
import time

import pytest

from paceline.errors import UsageError
from paceline.plan import control


def test_attach_starts_no_command_but_paceline_s_own(tmp_path):
    folder, proof = tmp_path / "run" / "control" / "run", tmp_path / "proof"
    folder.mkdir(parents=True)
    state = {
        "status": "ended", "exit_code": 137, "time": time.time(), "since": time.time(), "pid": 1,
        "start": "0", "host": platform.node(), "command": ["/bin/sh", "-c", f"touch {proof}"],
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(UsageError, match="a command that is not paceline's"):
        control.go_on(tmp_path / "run")
    assert not proof.exists()
