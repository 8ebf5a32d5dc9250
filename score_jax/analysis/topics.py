"""What `score-jax analyze` can measure: the question, an example, and the flags of each."""

from score_jax.command_line import Topic

SHARED = {
    "out": "Folder to write to; '': WORKDIR/analysis, or runs/analysis without a run.",
    "num_examples": "The first so many images of each split; 0: all.",
    "steps": "Steps of the attack; -1: as many as is usual.",
    "seed": "Of what is drawn.",
}
MODEL = ("artifact", "data_dir", "eps", "steps", "batch_size", "seed", "num_examples")


def _topic(summary: str, example: str, *flags: str, **meanings: str) -> Topic:
    own = tuple(dict.fromkeys(("workdir", "out", *flags)))
    common = {flag: text for flag, text in SHARED.items() if flag in own}
    return Topic(summary, f"score-jax analyze {example}", own, common | meanings)


TOPICS = {
    "separation": _topic(
        "How far apart do images of different classes lie?",
        "separation --data=cifar10",
        "data", "data_dir", "norm", "p", "eps", "outliers", "seed", "num_examples",
        workdir="Run whose dataset to measure, and whose folder and report get the result.",
        norm="Norm of the distance; '': linf.",
        eps="Radius to judge by, such as 8/255; '': the paper's for this dataset.",
        outliers="How many training images of the smallest distances to leave out.",
        seed="Of the random labels that are compared beside the true ones.",
    ),
    "theorem": _topic(
        "Is there a smooth classifier that is right all around the training images?",
        "theorem --data=mnist",
        "data", "data_dir", "norm", "p", "radius", "outliers", "probes", "seed", "num_examples",
        workdir="Run whose dataset to measure, and whose folder and report get the result.",
        norm="Norm of the distance; '': linf.",
        outliers="How many training images of the smallest distances to leave out.",
    ),
    "lipschitz": _topic(
        "How fast do the logits of a model change near images?",
        "lipschitz --workdir=runs/score --num_examples=1000",
        *MODEL, "split", "restarts",
        split="Images to measure on, train or test alone; left out: both.",
        eps="L∞ radius, such as 8/255; '': the model's own.",
        steps="Steps of the search, -1: 20; the released estimator always takes its 10.",
        restarts="Starts of the search; -1: 3.",
    ),
    "gaps": _topic(
        "How much better is a run on training images, and does it overfit to the attack?",
        "gaps --workdir=runs/score --checkpoints=all",
        "data_dir", "checkpoints", "weights", "num_examples", "eps", "steps", "step_size",
        "batch_size", "seed",
        weights="Averaged weights or live ones; left out: those that were exported.",
        steps="Of PGD; -1: 10.",
    ),
    "table": _topic(
        "Which runs are accurate, robust, smooth, and how large are their gaps?",
        "table --runs=runs/natural,runs/trades",
        "runs", "measure", "data_dir", "num_examples", "eps", "batch_size", "seed",
        workdir="Run to begin with, whose folder and report get the table.",
    ),
    "score-bounds": _topic(
        "Does SCORE's robust error lie between its bounds, and how far does the truth change?",
        "score-bounds --problem=toy",
        "problem", "dimensions", "artifact", "surrogate", "temperature", "data_dir", "norm",
        "eps", "divergence", "train_steps", "steps", "restarts", "batch_size", "seed",
        "num_examples",
        problem="Of known truth: the toy, Gaussian mixtures; or images, with a surrogate's.",
        divergence="D, one alone; left out: all.",
        num_examples="Points drawn of a mixture, 1000; the first so many test images.",
        norm="Norm of the ball; '': linf, or the model's own.",
        train_steps="Steps of the training of the networks that are measured.",
    ),
    "toy": _topic(
        "What do SCORE and others learn where the truth is known?",
        "toy\nscore-jax analyze toy --demo=score --divergence=l2",
        "show", "demo", "divergence", "train_steps", "seed", "num_examples",
        show="Of change, training, methods, six; commas; '': all.",
        divergence="D of attack and training, one alone; left out: all.",
        num_examples="Points of a step of the training; 0: 600.",
        train_steps="Steps of a training.",
    ),
    "geometry": _topic(
        "How does a model look around images: who falls soonest, how far is the edge?",
        "geometry --workdir=runs/gairat --show=kappa,weights,margins",
        *MODEL, "split", "show", "checkpoints", "images", "beside",
        show="Of kappa, weights, margins, surface, gradients, radii; commas; '': all.",
        split="Of surface, gradients, radii; kappa and weights take train, margins both.",
        num_examples="The first so many images of a split, all where it has fewer; 0: 500.",
        steps="Steps of the attack; -1: those of its training, or 10.",
        checkpoints="Of kappa: steps, comma separated; all, best, last.",
        images="Shown by surface, gradients, radii; by their index; '': the first of each class.",
        beside="Other runs, comma separated: in margins, surface, gradients and radii.",
    ),
}  # fmt: skip
