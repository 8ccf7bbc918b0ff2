import json

import pytest

from scripts.plot import _curves, _spread, plot


def write_run(folder, rates):
    folder.mkdir()
    lines = [
        {"iteration": i, "eval/pass_rate": rate, "eval/pass_rate/low": rate - 0.1, "eval/pass_rate/high": rate + 0.2}
        for i, rate in rates.items()
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_that_differ_in_a_number_are_one_curve_with_their_range(tmp_path):
    runs = [write_run(tmp_path / "self-0", {0: 0.2, 10: 0.4}), write_run(tmp_path / "self-1", {0: 0.4, 10: 0.8, 20: 1})]
    curves = _curves([*runs, write_run(tmp_path / "frozen-0", {0: 0.3})])
    assert list(curves) == ["self (2 runs)", "frozen-0"]
    points = _spread(curves["self (2 runs)"], "eval/pass_rate")
    assert points == {0: pytest.approx((0.3, 0.2, 0.4)), 10: pytest.approx((0.6, 0.4, 0.8))}


def test_a_run_by_itself_keeps_the_interval_that_it_measured(tmp_path):
    (records,) = _curves([write_run(tmp_path / "run", {0: 0.5})])["run"]
    assert _spread([records], "eval/pass_rate") == {0: pytest.approx((0.5, 0.4, 0.7))}


def test_a_picture_is_drawn_and_a_folder_without_metrics_refused(tmp_path):
    plot([write_run(tmp_path / "run", {0: 0.5, 1: 0.6})], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"metrics\.jsonl, got .*empty"):
        plot([tmp_path / "empty"], tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()
