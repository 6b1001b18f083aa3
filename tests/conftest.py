"""What tests of several packages share."""

import pytest

from ridgeline.cli import main


@pytest.fixture
def refused(capsys):
    """Runs a command that has to be refused: exit code 2, nothing printed; the answer is its one line on standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert end.value.code == 2
        assert captured.out == ""
        (line,) = captured.err.strip().splitlines()
        return line

    return call
