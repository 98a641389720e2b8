"""Learning curves of one run or of several."""

from kzoo.figures import new_figure
from kzoo.tasks.reports.base import Drawing


def drawings(runs, first):
    """Yields a Drawing of the curves that the runs, [(name, rows of log.csv)], have: the `first` and those that were
    evaluated; none where there are none.
    """
    columns = dict.fromkeys(column for _, rows in runs for row in rows for column in row)
    curves = (*first, *(column.removeprefix("eval_") for column in columns if column.startswith("eval_")))
    known = [name for name in dict.fromkeys(curves) if {name, f"eval_{name}"} & columns.keys()]
    if known and max(len(rows) for _, rows in runs) > 1:
        says = f"Curves over the epochs: {', '.join(known)}."
        yield Drawing("learning_curves", lambda: draw(runs, known), says, wide=True)


def draw(runs, curves):
    """A panel a curve: of one run training and evaluation, of several each's evaluation, and faintly its training."""
    figure = new_figure(max(4.6 * len(curves), 6.5), 3.6)
    for axis, name in zip(figure.subplots(1, len(curves), squeeze=False).flat, curves, strict=True):
        for place, (run, rows) in enumerate(runs):
            for key, told in ((name, "training"), (f"eval_{name}", "evaluation")):
                points = [(row["epoch"], row[key]) for row in rows if key in row]
                if not points:
                    continue
                alone, of_training = len(runs) == 1, key == name
                marker = "o" if len(points) < 40 and (alone or not of_training) else None
                axis.plot(
                    *zip(*points, strict=True),
                    color=f"C{int(not of_training) if alone else place}",
                    alpha=0.4 if of_training and not alone else 1.0,
                    linewidth=1.0 if of_training and not alone else None,
                    linestyle="--" if place >= 5 else "-",
                    marker=marker,
                    markersize=3,
                    label=told if alone else run if not of_training else None,
                )
        axis.set(xlabel="epoch" if len(runs) == 1 else "epoch (faint: training)", title=name.replace("_", " "))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid()
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    return figure
