"""The look of pictures, where it changes what is read off them."""

import pytest

from score_jax import report_style


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0, 0.5, 1], ["0%", "50%", "100%"]),
        ([0.925, 0.95, 0.975, 1], ["92.5%", "95.0%", "97.5%", "100.0%"]),
        ([-0.0, 0.0005, 0.001], ["0.00%", "0.05%", "0.10%"]),
        ([0.1 + 0.2, 0.57], ["30%", "57%"]),
        ([1 / 3], ["33.333%"]),
    ],
)
def test_percentages_have_the_digits_that_their_ticks_need(ticks, labels):
    _, axes = report_style.panel("Shares", {})
    axes.set_xticks(ticks)
    report_style.percent_axis(axes.xaxis)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == labels
