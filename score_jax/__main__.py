"""`python -m score_jax <job>`."""

import sys

from score_jax import cli

if __name__ == "__main__":
    sys.exit(cli.main())
