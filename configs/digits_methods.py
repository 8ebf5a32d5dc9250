"""Every method on scikit-learn's digits, all else equal: a comparison in minutes on two CPU cores.

Command:
  score-jax sweep --config=configs/digits_methods.py
  score-jax train --config=configs/digits_methods.py:method=mart --workdir=runs/mart
Expected: see README. Differences of a few points between robust methods are within the noise of one
seed and 100 images; what the table shows is how each behaves, and what only PGD believes.
What a method does at an epoch of its own recipe it does here at the same share of 12 epochs,
but GAIRAT reweights from the fifth on: so few epochs have to show what its weights do.
Cost: 276 steps of 64 images a method, at most 5 attack steps each.

Arguments: method=NAME (one of METHODS), smoke.
"""

from configs import common

# Objective and its fields; then fields of other sections.
METHODS = {
    "natural": (dict(name="standard"), {}),
    "at": (dict(name="madry"), {}),
    "at-clean": (dict(name="rst", robust_weight=1.0), {}),
    "trades": (dict(name="trades", beta=6.0), {}),
    "score": (dict(name="score", beta=4.0), {}),
    # From a weight of 1 on it collapses: in a metric a constant prediction costs no more.
    "root-js": (dict(name="distance_trades", divergence="sqrt_js", robust_weight=0.5), {}),
    "mart": (dict(name="mart", beta=5.0), {}),
    "fat": (
        dict(name="madry"),
        {"attack": dict(step_noise=0.001, patience=(0, 1, 2), patience_epochs=(5, 9))},
    ),
    "fat-trades": (
        dict(name="trades", beta=6.0),
        {"attack": dict(patience=(0, 1, 2, 3), patience_epochs=(4, 7, 10))},
    ),
    "gairat": (dict(name="gairat", weight_lambda=-1.0, burn_in_epochs=4), {}),
    "gair-fat": (
        dict(name="gairat", weight_lambda=0.0, burn_in_epochs=4),
        {"attack": dict(patience=(0, 1, 3), patience_epochs=(4, 7))},
    ),
    "gair-trades": (dict(name="gair_trades", beta=6.0, burn_in_epochs=4), {}),
    "at-awp": (dict(name="madry"), {"awp": dict(gamma=0.01)}),
    "trades-awp": (dict(name="trades", beta=6.0), {"awp": dict(gamma=0.005, start_epoch=1)}),
    "score-awp": (dict(name="score", beta=4.0), {"awp": dict(gamma=0.005, start_epoch=1)}),
    "gr": (dict(name="gr", variant="finlay", weight=1.0, step=0.1), {}),
    "llr": (dict(name="llr", variant="released", weight=4.0), {}),
    "llr-qin2019": (
        dict(name="llr", variant="qin2019", weight=4.0),
        {"attack": dict(rule="adam", step_size=0.1)},
    ),
}


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, method="score", smoke=False)
    objective, sections = common.one_of("method", arg.method, METHODS)
    config = common.digits(smoke=arg.smoke)
    common.objective(config, **objective)
    if not arg.smoke:
        config.num_epochs = 12
        config.log.attack_share = False
        # As GAIRAT's authors select: PGD that trusts the loss. What it hides, AutoAttack shows.
        config.validation.attack.loss = "cross_entropy"
        config.attack.num_steps = 5
        config.validation.every_epochs = 4
    for section, fields in sections.items():
        config[section].update(fields)
    return config


def sweep():
    for method in METHODS:
        yield f"method={method}"
