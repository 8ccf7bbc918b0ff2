import pytest

from rl.schedules import learning_rate


@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [
        ("constant", 0, 0.5),
        ("constant", 1, 1.0),
        ("constant", 99, 1.0),
        ("linear", 6, 0.55),
        ("cosine", 6, 0.55),
        ("cosine", 10, 0.1),
        ("linear", 50, 0.1),
    ],
)
def test_by_hand(kind, step, expected):
    rate = learning_rate(step, peak=1.0, kind=kind, warmup_steps=2, total_steps=10, floor=0.1)
    assert rate == pytest.approx(expected)


def test_unknown_kind():
    with pytest.raises(ValueError, match="must be one of"):
        learning_rate(0, peak=1.0, kind="square", warmup_steps=0, total_steps=1, floor=0.0)
