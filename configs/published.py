"""The published tables, as data: the one home of every published number.

`score-jax report --table=NAME` prints one beside what was run here. A recipe says which row it is
(`common.finish`); a row says which recipe string gives it. None of the numbers was measured here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One published model.

    Attributes:
      recipe: the config string of its training; '' where this project has no data set for it.
      values: percentages (Lipschitz constants as they are), one a column; None: not known.
      notes: what the source leaves open; '' for nothing.
    """

    recipe: str
    values: tuple[float | None, ...]
    notes: str = ""


@dataclass(frozen=True)
class Table:
    """Rows by name, with the columns and the source that they share."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: dict[str, Row]


NOT_RELEASED = "100M generated images, which were not released: the recipe names the 1M set"
NOT_STATED = "the README states batch and epochs of the 1M run only; here they are that run's"

SCORE = Table(
    "CIFAR-10 and CIFAR-100, L∞ 8/255",
    "Pang et al. (ICML 2022), slides; SE is their method",
    ("clean", "AutoAttack"),
    {
        "Rice20 wrn-34-20-relu-normalized": Row(
            "cifar10_madry.py:model=wrn-34-20-relu-normalized", (85.34, 53.42)
        ),
        "Zhang20 wrn-34-10-relu": Row(
            "cifar10_fat.py:objective=trades,eps=0.062", (84.52, 53.51),
            "probably FAT-for-TRADES at eps 16/255; the slides say 120 epochs, its code has 85",
        ),
        "Pang21 wrn-34-20-relu": Row("cifar10_bag_of_tricks.py", (86.43, 54.39)),
        "Wu20 wrn-34-10-relu": Row("cifar10_awp.py:objective=trades", (85.36, 56.17)),
        "Gowal20 wrn-70-16-swish": Row("cifar10_gowal.py", (85.29, 57.14)),
        "Rebuffi21 wrn-28-10-swish": Row(
            "cifar10_gowal.py:recipe=rebuffi21,model=wrn-28-10-swish", (85.97, 60.73),
            "without CutMix",
        ),
        "SE beta=3 wrn-28-10-swish": Row("cifar10_score.py:beta=3", (88.61, 61.04)),
        "SE beta=4 wrn-28-10-swish": Row("cifar10_score.py:beta=4", (88.10, 61.51)),
        "Rebuffi21 wrn-70-16-swish": Row(
            "cifar10_gowal.py:recipe=rebuffi21", (86.94, 63.58), "without CutMix"
        ),
        "SE beta=3 wrn-70-16-swish": Row(
            "cifar10_score.py:model=wrn-70-16-swish,beta=3", (89.01, 63.35)
        ),
        "SE beta=4 wrn-70-16-swish": Row(
            "cifar10_score.py:model=wrn-70-16-swish,beta=4", (88.57, 63.74)
        ),
        "Gowal21 wrn-70-16-swish": Row(
            "cifar10_gowal.py:recipe=gowal21", (88.74, 66.10), NOT_RELEASED
        ),
        "CIFAR-100 Wu20 wrn-34-10-relu-normalized": Row("cifar100_awp.py", (60.38, 28.86)),
        "CIFAR-100 Gowal20 wrn-70-16-swish": Row("cifar100_gowal.py", (60.86, 30.03)),
        "CIFAR-100 Rebuffi21 wrn-28-10-swish": Row(
            "cifar100_gowal.py:recipe=rebuffi21,model=wrn-28-10-swish", (59.18, 30.81),
            "without CutMix",
        ),
        "CIFAR-100 SE beta=3 wrn-28-10-swish": Row("cifar100_score.py:beta=3", (63.66, 31.08)),
        "CIFAR-100 SE beta=4 wrn-28-10-swish": Row("cifar100_score.py:beta=4", (62.08, 31.40)),
        "CIFAR-100 Rebuffi21 wrn-70-16-swish": Row(
            "cifar100_gowal.py:recipe=rebuffi21", (60.46, 33.49), "without CutMix"
        ),
        "CIFAR-100 SE beta=3 wrn-70-16-swish": Row(
            "cifar100_score.py:model=wrn-70-16-swish,beta=3", (65.56, 33.05)
        ),
        "CIFAR-100 SE beta=4 wrn-70-16-swish": Row(
            "cifar100_score.py:model=wrn-70-16-swish,beta=4", (63.99, 33.65)
        ),
    },
)  # fmt: skip

_SMALL_GAP = "the gaps stand in neither the slides nor the blog"

YANG = Table(
    "CIFAR-10, L∞ 0.031, WRN-40-10, last epoch",
    "Yang et al. (NeurIPS 2020), slides; TRADES 1 and 6 from the authors' blog; Lipschitz "
    "constants, where unrounded, from their notebooks",
    ("train", "test", "adv test", "test Lipschitz", "gap", "adv gap"),
    {
        "Natural wrn-40-10-relu": Row(
            "cifar10_yang.py:method=natural", (100.00, 93.81, 0.00, 425.709, 6.19, 0.00)
        ),
        "GR wrn-40-10-relu": Row(
            "cifar10_yang.py:method=gr", (94.90, 80.74, 21.32, 28.528, 14.16, 3.94),
            "of the released code, whose update counts the clean loss twice",
        ),
        "LLR wrn-40-10-relu": Row(
            "cifar10_yang.py:method=llr", (100.00, 91.44, 22.05, 94.675, 8.56, 4.50),
            "of the released code, whose input gradient is always 0",
        ),
        "RST wrn-40-10-relu": Row(
            "cifar10_yang.py:method=rst", (99.86, 84.61, 40.89, 23.15, 15.25, 41.31),
            "its weight is not stated; the recipe has 2, as in the dropout experiments",
        ),
        "AT wrn-40-10-relu": Row(
            "cifar10_yang.py:method=at", (99.84, 83.51, 43.51, 26.230, 16.33, 49.94)
        ),
        "TRADES beta=1 wrn-40-10-relu": Row(
            "cifar10_yang.py:method=trades,beta=1", (99.76, 84.96, 43.66, 28.010, None, None),
            _SMALL_GAP,
        ),
        "TRADES beta=3 wrn-40-10-relu": Row(
            "cifar10_yang.py:method=trades,beta=3", (99.78, 85.55, 46.63, 22.423, 14.23, 47.67)
        ),
        "TRADES beta=6 wrn-40-10-relu": Row(
            "cifar10_yang.py:method=trades,beta=6", (98.93, 84.46, 48.58, 13.049, None, None),
            _SMALL_GAP,
        ),
    },
)  # fmt: skip

GAIRAT = Table(
    "CIFAR-10, L∞ 0.031, WRN-32-10 (the network of wrn-34-10-relu), best and last checkpoint",
    "Zhang et al. (ICLR 2021), README of the released code; best by PGD-20 on the test set",
    ("best clean", "best PGD-20", "best PGD+", "last clean", "last PGD-20", "last PGD+"),
    {
        "AT wrn-34-10-relu": Row(
            "cifar10_gairat.py:method=at", (86.92, 51.96, 51.28, 86.62, 46.73, 46.08)
        ),
        "FAT wrn-34-10-relu": Row(
            "cifar10_gairat.py:method=fat", (89.16, 51.24, 46.14, 88.18, 46.79, 45.80)
        ),
        "GAIRAT wrn-34-10-relu": Row(
            "cifar10_gairat.py:method=gairat", (85.75, 57.81, 55.61, 85.49, 53.76, 50.32),
            "under AutoAttack third parties measured 41.8 and 42.5",
        ),
        "GAIR-FAT wrn-34-10-relu": Row(
            "cifar10_gairat.py:method=gair-fat", (88.59, 56.21, 53.50, 88.44, 50.64, 47.51),
            "the released loss mismatches labels; which code gave the numbers is not known",
        ),
    },
)  # fmt: skip

WANG2023 = Table(
    "CIFAR-10 and CIFAR-100, L∞ 8/255 and L2 128/255, images of EDM",
    "Wang et al. (ICML 2023), README; sizes of the generated sets from RobustBench",
    ("clean", "AutoAttack"),
    {
        "Wang23 20M wrn-28-10-swish": Row(
            "cifar10_wang.py:generated=cifar10_edm_20m", (92.44, 67.31), NOT_STATED
        ),
        "Wang23 50M wrn-70-16-swish": Row(
            "cifar10_wang.py:generated=cifar10_edm_50m,model=wrn-70-16-swish", (93.25, 70.69),
            NOT_STATED,
        ),
        "Wang23 L2 50M wrn-28-10-swish": Row(
            "cifar10_wang.py:generated=cifar10_edm_50m,threat=l2", (95.16, 83.63),
            NOT_STATED + "; RobustBench has 83.68 at eps 0.5",
        ),
        "Wang23 L2 50M wrn-70-16-swish": Row(
            "cifar10_wang.py:generated=cifar10_edm_50m,threat=l2,model=wrn-70-16-swish",
            (95.54, 84.86), NOT_STATED + "; RobustBench has 84.97 at eps 0.5",
        ),
        "CIFAR-100 Wang23 50M wrn-28-10-swish": Row(
            "cifar100_wang.py", (72.58, 38.83), NOT_STATED
        ),
        "CIFAR-100 Wang23 50M wrn-70-16-swish": Row(
            "cifar100_wang.py:model=wrn-70-16-swish", (75.22, 42.67), NOT_STATED
        ),
    },
)  # fmt: skip

BARTOLDSON2024 = Table(
    "CIFAR-10, L∞ 8/255, hundreds of millions of generated images",
    "Bartoldson et al. (ICML 2024), README; clean accuracy from RobustBench",
    ("clean", "AutoAttack"),
    {
        "Bartoldson24 wrn-82-8-swish": Row(
            "cifar10_bartoldson.py:model=wrn-82-8-swish", (93.11, 71.59),
            "its 341M images (349M in RobustBench) were not released",
        ),
        "Bartoldson24 wrn-94-16-swish": Row(
            "cifar10_bartoldson.py", (93.68, 73.71),
            "its 500M images were not released; 6,000 of the 10,000 epochs saw no real image",
        ),
    },
)  # fmt: skip

ROBUSTBENCH = Table(
    "CIFAR-10, L∞: baselines as RobustBench lists them",
    "RobustBench, model_info/cifar10/Linf",
    ("clean", "AutoAttack"),
    {
        "TRADES wrn-34-10-relu": Row(
            "cifar10_trades.py:recipe=original", (84.92, 53.08), "attacked at eps 0.031"
        ),
        "Carmon19 wrn-28-10-relu": Row("cifar10_rst.py", (89.69, 59.53), "500K TinyImages"),
        "GAIR-RST wrn-28-10-relu": Row(
            "cifar10_rst.py:method=gair", (89.36, 59.64), "500K TinyImages; attacked at eps 0.031"
        ),
    },
)

TABLES = {
    "score": SCORE,
    "yang": YANG,
    "gairat": GAIRAT,
    "wang2023": WANG2023,
    "bartoldson2024": BARTOLDSON2024,
    "robustbench": ROBUSTBENCH,
}
