"""Natural training on scikit-learn's digits: the same network, without an attack.

Command: score-jax train --config=configs/digits_natural.py --workdir=runs/digits_natural
Expected: see README (clean above 97%, AutoAttack near 0% at eps 0.2).
Cost: seconds on two CPU cores.
"""

from configs import common


def get_config(arg: str = ""):
    arg = common.parse_arg(arg, smoke=False)
    config = common.digits(smoke=arg.smoke)
    with config.unlocked():
        config.objective = dict(name="standard", label_smoothing=0.0, smoothing="uniform")
    return config
