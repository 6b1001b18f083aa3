"""A record of serving runs without a run."""

from pathlib import Path

import pytest

from ridgeline.validate.serving_runs import read_runs


def test_a_record_without_runs_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "vllm_runs"
    folder.mkdir()
    (folder / "runs.json").write_text("[]")
    (folder / "requests.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"runs\.json: no runs; expected at least one"):
        read_runs(tmp_path)
