"""Style of the figures: colours for the colour-blind, dashes and markers."""

import io
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from rlkl.tools.rows import Rows, column, grouped

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Axes: TypeAlias = "matplotlib.axes.Axes"
Figure: TypeAlias = "matplotlib.figure.Figure"
"""Types of matplotlib, which is an extra and imported only to draw."""

BLACK = "#000000"
COLORS = {
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#777777",
}
"""The palette of Okabe and Ito (2008) without yellow, which is too pale on paper, plus a grey."""


class Line(NamedTuple):
    """Colour, dashes and marker of a line; the last two work without colour."""

    color: str
    dashes: str
    marker: str = ""

    @property
    def style(self) -> dict[str, Any]:
        """Colour and dashes as keywords of matplotlib."""
        return {"color": self.color, "linestyle": self.dashes}


ALGORITHM_LINES = {
    "vanilla_pg": Line(COLORS["grey"], ":", "o"),
    "plain gradient": Line(BLACK, "-.", "x"),
    "no limit": Line(BLACK, ":", "x"),
    "ppo_clip": Line(COLORS["blue"], "-", "s"),
    "ppo_kl_fixed": Line(COLORS["green"], "--", "^"),
    "npg": Line(COLORS["orange"], "--", "D"),
    "trpo": Line(COLORS["vermilion"], "-", "v"),
}


SEED_LINES = (
    Line(COLORS["blue"], "-"),
    Line(COLORS["vermilion"], "--"),
    Line(COLORS["green"], "-."),
    Line(COLORS["orange"], ":"),
)


def new_figure(inches: tuple[float, float]) -> Figure:
    """Return an empty figure of this width and height."""
    import matplotlib.figure  # noqa: PLC0415

    return matplotlib.figure.Figure(inches, layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as .png or .svg; the same figure gives the same bytes."""
    import matplotlib as mpl  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415 (matplotlib depends on it)

    if path.suffix == ".svg":
        with mpl.rc_context({"svg.hashsalt": path.stem}):
            figure.savefig(path, metadata={"Date": None})
        return
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    # A palette is enough for lines and text, and the file is smaller.
    palette = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)


def label(axes: Axes, title: str, x: str, y: str, **properties: Any) -> None:
    """Set the title, both axis labels and other properties, and add a light grid."""
    axes.set_title(title, fontsize=11)
    axes.set(xlabel=x, ylabel=y, **properties)
    axes.grid(alpha=0.25)


def draw_training(
    figure: Figure, by_variant: dict[str, Rows], keys: dict[str, str], corner: str
) -> Any:
    """Draw columns along `env_steps`: a panel for each key and variant, a line for each seed.

    `keys` has the names of the axes. Return the panels, `[keys, variants]`; the legend is in a
    corner of the first.
    """
    panels = figure.subplots(len(keys), len(by_variant), squeeze=False, sharex=True, sharey="row")
    for (name, found), of_variant in zip(by_variant.items(), panels.T, strict=True):
        for axes, key in zip(of_variant, keys, strict=True):
            # Seeds share styles if there are more.
            seeds = grouped(found, "seed").items()
            for (seed, of_seed), line in zip(seeds, cycle(SEED_LINES), strict=False):
                steps = [x / 1000 for x in column(of_seed, "env_steps")]
                values = column(of_seed, key)
                axes.plot(steps, values, **line.style, linewidth=1.2, label=f"seed {seed}")
            label(axes, name if axes is of_variant[0] else "", "", "")
        of_variant[-1].set_xlabel("environment steps, thousands")
    for axes, name in zip(panels[:, 0], keys.values(), strict=True):
        axes.set_ylabel(name)
    panels[0, 0].legend(frameon=False, fontsize=8, loc=corner)
    return panels
