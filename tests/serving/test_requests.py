"""Request traces: what is read, and what is refused with its place."""

import numpy as np
import pandas as pd
import pytest

from serving import Lengths, Requests, read_requests


def write(tmp_path, **columns):
    path = tmp_path / "trace.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_reads_other_peoples_column_names(tmp_path):
    trace = read_requests(write(tmp_path, timestamp_s=[0.0, 1.5], ContextTokens=[10, 20], GeneratedTokens=[3, 4]))
    assert list(trace.arrival_s) == [0.0, 1.5]
    assert list(trace.input_tokens) == [10, 20]
    assert list(trace.output_tokens) == [3, 4]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"arrival_s": [0.0], "input_toks": [5]}, "no column output_tokens"),
        ({"arrival_s": [1.0, 0.5], "input_toks": [5, 5], "output_toks": [1, 1]}, "runs backwards at request 1"),
        ({"arrival_s": [0.0], "input_toks": [0], "output_toks": [1]}, r"requests\[0\]\.input_tokens"),
        ({"arrival_s": [0.0], "input_toks": ["many"], "output_toks": [1]}, "input_toks, row 0: 'many' is not a number"),
        ({"arrival_s": [], "input_toks": [], "output_toks": []}, "no requests"),
    ],
)
def test_bad_traces_are_refused(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        read_requests(write(tmp_path, **columns))


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_requests(tmp_path / "nothing.csv")
    broken = tmp_path / "broken.parquet"
    broken.write_text("not a table")
    with pytest.raises(ValueError, match="not readable"):
        read_requests(broken)


def test_poisson_has_its_rate():
    trace = Requests.poisson(5.0, np.full(4000, 10), 10, seed=0)
    assert len(trace) / trace.arrival_s[-1] == pytest.approx(5.0, rel=0.05)
    with pytest.raises(ValueError, match="rate_per_s"):
        Requests.poisson(0.0, [10], 10)
    with pytest.raises(ValueError, match="rate_per_s"):
        Requests.poisson(float("inf"), [10], 10)


def test_calendar_time_counts_from_the_first_request(tmp_path):
    trace = read_requests(write(tmp_path, timestamp_s=[1.75e9, 1.75e9 + 2], input_toks=[10, 20], output_toks=[3, 4]))
    assert list(trace.arrival_s) == [0.0, 2.0]
    with pytest.raises(ValueError, match="arrival_s"):
        Requests.of([1.75e9], 10, 3)


def test_binned_lengths_keep_their_means_and_nearly_their_squares():
    random = np.random.default_rng(0)
    prompts, outputs = np.ceil(random.lognormal([[7.0], [5.0]], 1.0, (2, 4000)))
    all_of_them = Lengths.of_requests(Requests.of(0.0, prompts, outputs))
    few = all_of_them.binned()
    assert few.share.size <= 32
    assert few.share.sum() == pytest.approx(1.0)
    for name in ("input_tokens", "output_tokens"):
        whole, binned = (x.mean(getattr(x, name)) for x in (all_of_them, few))
        assert binned == pytest.approx(whole)
    squares = [x.mean(x.input_tokens**2) for x in (few, all_of_them)]
    assert 0.6 * squares[1] <= squares[0] <= squares[1]
    one = Lengths.of(1000.0, 200.0).binned()
    assert (one.share.size, one.input_tokens[0], one.output_tokens[0]) == (1, 1000.0, 200.0)
