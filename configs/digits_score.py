"""SCORE on scikit-learn's digits (8x8 scans): the quickstart, minutes on two CPU cores.

Paper: Pang et al., ICML 2022. Radius 0.2: the strokes are thick and the images small.
Command: score-jax train --config=configs/digits_score.py --workdir=runs/digits_score
Expected: see README (clean above 96%, AutoAttack above 65% at eps 0.2).
Cost: about a minute on two CPU cores.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, smoke=False)
    config = common.digits(smoke=arg.smoke)
    config.objective.beta = 4.0
    return config


def sweep():
    for beta in (2.0, 4.0, 8.0):
        yield {"objective.beta": beta}
