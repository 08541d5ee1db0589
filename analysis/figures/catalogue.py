"""The figures and tables of the paper, by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparsing.analysis.figures import neurons, over_shapes, over_tokens, weak
from sparsing.analysis.figures.data import StudyData
from sparsing.analysis.figures.figure import Made, MissingFigure, PaperFigure
from sparsing.study.definition.messages import did_you_mean
from sparsing.study.errors import NotFoundError

TASKS = "no scores on tasks are in the store: this version of sparsing evaluates none"
EXPERTS = "no run of this study has experts: this version of sparsing trains dense models alone"
DECODING = (
    "decoding speed is no part of a study: `sparsing bench decode` and `sparsing generate` "
    "measure it on this machine"
)


def _never(why: str) -> Callable[[StudyData], Made]:
    def make(_: StudyData) -> Made:
        raise MissingFigure(why)

    return make


CATALOGUE = {
    figure.key: figure
    for figure in (
        PaperFigure(
            "2",
            "Perplexity against activation ratio",
            "Which way of choosing weak neurons costs least perplexity at the same sparsity.",
            weak.perplexity,
        ),
        PaperFigure("3", "Task scores against activation ratio", "", _never(TASKS)),
        PaperFigure(
            "4",
            "Activation ratio against training tokens",
            "How sparsity changes with data: points, the laws by weight, their 95 % bands.",
            over_tokens.activation,
        ),
        PaperFigure(
            "5",
            "Limit of the activation ratio against the width-depth ratio",
            "Whether the limit rises with width over depth up to a bottleneck, and is flat then.",
            over_shapes.width_depth,
        ),
        PaperFigure(
            "6",
            "Limit of the training loss against the width-depth ratio",
            "Which shapes have the lowest training loss at infinite data.",
            over_shapes.width_depth_loss,
        ),
        PaperFigure(
            "7",
            "Limit of the activation ratio against scale",
            "Whether the limit depends on the number of parameters.",
            over_shapes.scales,
        ),
        PaperFigure(
            "8",
            "Derivative of the activation ratio against tokens per parameter",
            "Which scales converge faster.",
            over_tokens.derivatives,
        ),
        PaperFigure(
            "9",
            "Distribution of neurons' activation frequencies",
            "How many neurons are active on what share of each domain's tokens, all layers.",
            neurons.by_domain,
        ),
        PaperFigure(
            "10",
            "Activation ratio of vocabulary tokens, one scale against another",
            "Whether models of two scales spend their neurons on the same tokens.",
            neurons.vocabulary,
        ),
        PaperFigure(
            "11",
            "The largest run, foretold from smaller ones",
            "The limit of the largest run by the law over the smaller scales, and what came.",
            over_shapes.forecast,
        ),
        PaperFigure("12", "Mixture of experts against vanilla ReLU", "", _never(EXPERTS)),
        PaperFigure(
            "13",
            "Loss against training tokens",
            "How the losses of all runs fall.",
            over_tokens.losses,
        ),
        PaperFigure(
            "14",
            "Limits of the training loss against scale",
            "The training loss at infinite data.",
            over_shapes.loss_limits_over_scales,
        ),
        PaperFigure(
            "15",
            "Perplexity and activation ratio against CETT",
            "That both are monotone in CETT, so that a bisection finds the value.",
            weak.against_cett,
        ),
        PaperFigure(
            "16",
            "Activation frequencies of the first, middle and last layer",
            "The distributions of Figure 9 for single layers.",
            neurons.by_layer,
        ),
        PaperFigure("table1", "Task scores, dense and sparse", "", _never(TASKS)),
        PaperFigure(
            "table2",
            "Coefficients of the laws",
            "Parameters with 95 % intervals, and the limit from all laws that the points allow.",
            over_tokens.coefficients,
        ),
        PaperFigure("table4", "Commonsense scores by task", "", _never(TASKS)),
        PaperFigure("table5", "Reading scores by task", "", _never(TASKS)),
        PaperFigure("table6", "Task scores at three levels of sparsity", "", _never(TASKS)),
        PaperFigure(
            "dead",
            "Dead neurons",
            "Neurons that are active on fewer than 0.1 % of the tokens, against training tokens.",
            over_tokens.dead_neurons,
        ),
        PaperFigure("decoding", "Decoding speed", "", _never(DECODING)),
    )
}


def chosen(only: Sequence[str]) -> list[PaperFigure]:
    """The figures that these words name: `7`, `figure 7`, `table2`; all without words.

    Raises NotFoundError for another word, with the nearest key.
    """
    keys = [_key(word) for word in only if word.strip()]
    return [CATALOGUE[key] for key in keys] if keys else list(CATALOGUE.values())


def _key(word: str) -> str:
    key = word.strip().lower().replace(" ", "").removeprefix("figure").removeprefix("fig")
    key = key.lstrip("0") or key
    if key not in CATALOGUE:
        near = did_you_mean(key, CATALOGUE)
        raise NotFoundError(f"no figure {word!r}{near}; there are: {', '.join(CATALOGUE)}")
    return key
