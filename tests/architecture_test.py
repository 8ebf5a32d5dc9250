"""The shape of the code: floors, confined libraries, short files. Each rule is seen to bite."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 300

FLOORS = {
    0: "__init__ types",
    1: "divergences threat_models optimizers averaging weight_perturbation metrics mesh config "
    "config_rules overrides writers workdir command_line restricted_pickle stopping timing "
    "watchdog compile_cache hlo topologies distributed runtime_failures restarts control_groups",
    2: "models attacks objectives data",
    3: "recipe minimax microbatches model_passes train_state train_step evaluation checkpoint "
    "recipes preflight artifact warm_start",
    4: "train export torch_bridge torch_models official_autoattack autoattack_adapter compare "
    "interop prepare dataset evaluate report submit analysis catalog sweep trust plan doctor",
    5: "cli __main__",
}
FLOOR_OF = {unit: floor for floor, units in FLOORS.items() for unit in units.split()}
# Who may import a neighbour of its own floor.
NEIGHBOURS = {
    "config": {"config_rules", "overrides"},
    "config_rules": {"overrides"},
    "command_line": {"config_rules", "overrides"},
    "workdir": {"config", "distributed"},
    "restarts": {"workdir"},
    "writers": {"workdir"},
    "minimax": {"recipe"},
    "train_state": {"recipe"},
    "model_passes": {"recipe"},
    "microbatches": {"minimax", "recipe"},
    "train_step": {"microbatches", "minimax", "recipe", "train_state"},
    "compile_cache": {"distributed", "workdir"},
    "timing": {"compile_cache"},
    "stopping": {"distributed"},
    "checkpoint": {"train_state"},
    "recipes": {"evaluation", "microbatches", "recipe"},
    "preflight": {"evaluation", "microbatches", "recipe", "train_state", "train_step"},
    "export": {"interop"},
    "warm_start": {"artifact"},
    "interop": {"export", "torch_models"},
    "official_autoattack": {"autoattack_adapter", "interop", "torch_bridge", "torch_models"},
    "evaluate": {"export"},
    "prepare": {"dataset"},
    "compare": {"interop", "official_autoattack", "report", "torch_models"},
    "analysis": {"evaluate", "export", "report"},
    "report": {"export"},
    "submit": {"interop", "torch_models"},
    "trust": {"report"},
    "sweep": {
        "analysis", "evaluate", "export", "official_autoattack", "prepare", "report", "train",
    },
    "__main__": {"cli"},
}
# Library: the modules under score_jax that may import it.
CONFINED = {
    "flax": "models",
    "orbax": "checkpoint",
    "grain": "data checkpoint",
    "tensorflow_datasets": "data prepare",
    "array_record": "data prepare",
    "sklearn": "data",
    "torch": "torch_bridge torch_models official_autoattack autoattack_adapter compare interop "
    "export submit",
    "pyautoattack": "autoattack_adapter",
    "autoattack": "autoattack_adapter",
    "absl.flags": "cli command_line __main__",
    "absl.app": "",
    "rich": "cli __main__ writers",
    "matplotlib": "analysis report compare trust",
    "tensorboardX": "writers",
    "pickle": "restricted_pickle",
    "tensorflow": "",
    "clu": "",
    "dill": "",
    "cloudpickle": "",
    "joblib": "",
    "torchattacks": "",
    "jax2torch": "",
    "robustbench": "",
}
# Jobs that judge what is trained already, or a dataset (`analysis`: its separation).
TEST_SPLIT = (
    "data evaluate interop official_autoattack compare report prepare dataset analysis trust"
)
RECIPES_MAY = {"ml_collections", "configs.common"}
COMMON_MAY = {"ml_collections", "configs.published", "score_jax.config", "score_jax.overrides"}


class Tree:
    """The source files under a root, with the modules that each imports."""

    def __init__(self, root: Path) -> None:
        self.files = {
            self._name(root, path): path
            for package in ("score_jax", "configs")
            for path in sorted((root / package).rglob("*.py"))
        }
        self.parsed = {name: ast.parse(path.read_text()) for name, path in self.files.items()}
        self.imports = {name: set(self._imports(name)) for name in self.files}

    @staticmethod
    def _name(root: Path, path: Path) -> str:
        return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")

    def _imports(self, name: str) -> Iterator[str]:
        for node in ast.walk(self.parsed[name]):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                if node.level:
                    yield "a relative module"
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    # `from score_jax import config`, `from absl import flags`: the module is meant.
                    yield whole if whole in self.files or whole in CONFINED else str(node.module)

    def own(self, name: str) -> set[str]:
        """The modules of this tree that a module imports."""
        return {target for target in self.imports[name] if target in self.files} - {name}


def unit(module: str) -> str:
    """The name under score_jax that has a floor; `report_html` belongs to `report`."""
    parts = module.split(".")
    name = whole = parts[1] if len(parts) > 1 else "__init__"
    while name and name not in FLOOR_OF:
        name = name.rpartition("_")[0]
    return name or whole


def within(module: str, allowed: str) -> bool:
    """Whether `module` is one of, or inside one of, the allowed names."""
    local = module.removeprefix("score_jax.")
    names = {
        unit(module),
        local,
        *(local.rsplit(".", n)[0] for n in range(1, local.count(".") + 1)),
    }
    return bool(names & set(allowed.split()))


def wrong_floors(tree: Tree) -> Iterator[str]:
    for name in (name for name in tree.files if name.startswith("score_jax")):
        here = unit(name)
        if here not in FLOOR_OF:
            yield f"{name} has no floor; add it to FLOORS in tests/architecture_test.py"
            continue
        for target in tree.own(name):
            there = unit(target)
            if target.startswith("configs"):
                yield f"{name} imports {target}: recipes are data of the user"
            elif there not in FLOOR_OF or there == here or there in NEIGHBOURS.get(here, ()):
                continue
            elif FLOOR_OF[there] >= FLOOR_OF[here]:
                yield f"{name} (floor {FLOOR_OF[here]}) imports {target} (floor {FLOOR_OF[there]})"


def circles(tree: Tree) -> Iterator[str]:
    try:
        graphlib.TopologicalSorter({name: tree.own(name) for name in tree.files}).prepare()
    except graphlib.CycleError as error:
        yield f"a circle of imports: {' <- '.join(error.args[1])}"


def stray_libraries(tree: Tree) -> Iterator[str]:
    for name, targets in tree.imports.items():
        for target in targets:
            parts = target.split(".")
            for end in range(1, len(parts) + 1):
                library = ".".join(parts[:end])
                if library in CONFINED and not within(name, CONFINED[library]):
                    yield f"{name} imports {library}, confined to: {CONFINED[library] or 'nothing'}"
            if target == "a relative module":
                yield f"{name} has a relative import; write it from score_jax"


def stray_test_split(tree: Tree) -> Iterator[str]:
    for name, parsed in tree.parsed.items():
        for node in ast.walk(parsed):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            names += (
                [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            )
            if {"test_split", "test_source"} & set(names) and not within(name, TEST_SPLIT):
                yield f"{name} reads the test split; only evaluations may"


def unsafe_loads(tree: Tree) -> Iterator[str]:
    for name, parsed in tree.parsed.items():
        for node in (node for node in ast.walk(parsed) if isinstance(node, ast.Call)):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if ast.unparse(node.func) == "torch.load" and keywords.get("weights_only") != "True":
                yield f"{name}:{node.lineno} has torch.load without weights_only=True"
            if keywords.get("allow_pickle", "False") != "False":
                yield f"{name}:{node.lineno} allows pickle"


def stray_recipe_imports(tree: Tree) -> Iterator[str]:
    for name in (name for name in tree.files if name.startswith("configs")):
        allowed = COMMON_MAY if name == "configs.common" else RECIPES_MAY
        for target in tree.imports[name]:
            if target.split(".")[0] not in sys.stdlib_module_names and target not in allowed:
                yield f"{name} imports {target}; a recipe imports {', '.join(sorted(allowed))}"


def bad_files(tree: Tree) -> Iterator[str]:
    for name, path in tree.files.items():
        lines = len(path.read_text().splitlines())
        if lines > MAX_LINES:
            yield f"{name} has {lines} lines, over {MAX_LINES}: split it by its reasons to exist"
        if name.split(".")[-1] in ("utils", "util", "helpers", "misc"):
            yield f"{name}: name it after what it holds"


RULES = [
    wrong_floors,
    circles,
    stray_libraries,
    stray_test_split,
    unsafe_loads,
    stray_recipe_imports,
    bad_files,
]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_rule(tree, rule):
    assert not list(rule(tree))


def test_the_tree_is_really_read(tree):
    assert "score_jax.config_rules" in tree.own("score_jax.config")
    assert "score_jax.types" in tree.own("score_jax.overrides")
    assert "absl.flags" in tree.imports["score_jax.command_line"]
    assert "configs.common" in tree.files


@pytest.mark.parametrize(
    ("rule", "path", "text", "message"),
    [
        (wrong_floors, "score_jax/metrics.py", "import score_jax.train", "(floor 1) imports score"),
        (wrong_floors, "score_jax/metrics.py", "from score_jax import mesh", "imports score_jax.m"),
        (wrong_floors, "score_jax/models/a.py", "from score_jax.data import sources", "(floor 2)"),
        (wrong_floors, "score_jax/export.py", "def f():\n  from score_jax import cli", "(floor 5)"),
        (wrong_floors, "score_jax/novel.py", "", "score_jax.novel has no floor; add it to FLOORS"),
        (wrong_floors, "score_jax/train.py", "from configs import common", "recipes are data"),
        (circles, "score_jax/data/sources.py", "from score_jax.data import a", "a circle of impor"),
        (circles, "score_jax/mesh.py", "from score_jax import metrics", "a circle of imports"),
        (stray_libraries, "score_jax/train.py", "from flax import nnx", "imports flax, confined t"),
        (stray_libraries, "score_jax/train.py", "import orbax.checkpoint as o", "imports orbax"),
        (stray_libraries, "score_jax/train.py", "from absl import flags", "imports absl.flags"),
        (stray_libraries, "score_jax/data/a.py", "import tensorflow as tf", "confined to: nothing"),
        (stray_libraries, "score_jax/data/a.py", "import pickle", "imports pickle, confined to"),
        (stray_libraries, "score_jax/train.py", "def f():\n  import torch", "imports torch"),
        (stray_libraries, "score_jax/train.py", "from . import mesh", "has a relative import"),
        (stray_test_split, "score_jax/train.py", "from a import test_split", "reads the test spl"),
        (stray_test_split, "score_jax/train.py", "import a\na.test_split('x')", "reads the test s"),
        (stray_test_split, "score_jax/train.py", "import a\na.test_source('x')", "reads the test"),
        (unsafe_loads, "score_jax/interop.py", "import torch\ntorch.load('x')", ":2 has torch.loa"),
        (unsafe_loads, "score_jax/data/a.py", "np.load('x', allow_pickle=True)", "allows pickle"),
        (stray_recipe_imports, "configs/a.py", "import jax", "configs.a imports jax"),
        (stray_recipe_imports, "configs/a.py", "from score_jax import config", "imports score_jax"),
        (stray_recipe_imports, "configs/common.py", "from score_jax import train", "imports score"),
        (bad_files, "score_jax/train.py", "x = 1\n" * 301, "has 301 lines, over 300"),
        (bad_files, "score_jax/data/utils.py", "", "name it after what it holds"),
    ],
)  # fmt: skip
def test_each_rule_bites(tmp_path, rule, path, text, message):
    sound = {
        "score_jax/__init__.py": "",
        "score_jax/config.py": "",
        "score_jax/mesh.py": "",
        "score_jax/metrics.py": "from score_jax import types",
        "score_jax/types.py": "import jax",
        "score_jax/data/__init__.py": "",
        "score_jax/data/a.py": "from score_jax.data import sources",
        "score_jax/data/sources.py": "import grain\nfrom score_jax import mesh",
        "score_jax/restricted_pickle.py": "import pickle",
        "score_jax/train.py": "from score_jax.data import sources",
        "score_jax/evaluate.py": "from score_jax.data.sources import test_split",
        "score_jax/interop.py": "import torch\ntorch.load('x', weights_only=True)",
        "score_jax/report_plots.py": "import matplotlib.pyplot",
        "score_jax/cli.py": "def f():\n  from score_jax import train",
        "configs/common.py": "from score_jax import config",
        "configs/sound.py": "import math\nfrom configs import common",
    }
    if rule is circles:
        sound["score_jax/metrics.py"] = "from score_jax import mesh"
    for name, content in sound.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert not list(rule(Tree(tmp_path)))
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    found = list(rule(Tree(tmp_path)))
    assert len(found) == 1
    assert message in found[0]
