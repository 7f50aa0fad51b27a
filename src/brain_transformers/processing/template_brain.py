"""Whether a brain lies and stands where its affine says: its outline beside that of MNI152's template.

Runs often cover a part of the brain only, and of a slab nobody can tell from its outline where it was cut from. So
what is refused is a brain that is nearly whole and fits the template clearly better turned, or much of which lies
outside of the template and would fit it clearly better elsewhere. Left and right look alike and cannot be told;
a brain is about as wide as high, so that one that lies on its side is not told either.
"""

import numpy as np

from ..atlases.assets import template_brain

# Voxels of 2 mm in a cell, and mm of one.
_CELL, _CELL_MM = 4, 8
# Cells that a brain may be moved by to fit.
_FARTHEST = 9
# Outlines, as the cosine between shares of cells: how like the template's that of a whole brain is where it fits best,
# and that of one of which a part was cut off.
_LIKE_A_BRAIN, _LIKE_A_PART = 0.85, 0.75
# So much better must one fit that is turned (others of a whole brain fit by 0.91 at most), or moved so far.
_TURNED_BETTER, _MOVED_BETTER, _MOVED_MM = 0.03, 0.12, 20
# Shares of the grid: where more than this is not background, the outline is told by brightness.
_MOST_FOREGROUND = 0.5
# Share of a brain that lies in the template, one cell wider: more of it may be anywhere.
_INSIDE = 0.92
_TURNS = {"front to back": (0,), "upside down": (2,), "front to back and upside down": (0, 2)}
_FIX = (
    "Take its affine from the source, convert that image again, or register it to MNI152. Where the brain is known to "
    "lie right, such as after surgery: check_brain=False (--no-check-brain)."
)


def check_brain(mean: np.ndarray, seen: np.ndarray, name: str) -> None:
    """Refuse a brain that lies or stands otherwise than its affine says.

    Args:
        mean: of each voxel over time, `(y, x, z)` on the grid of MNI152 at 2 mm.
        seen: voxels that are not background.
        name: what errors call the scan.

    Raises:
        ValueError: saying how it lies.
    """
    template, outline = template_brain(), _shares(_brain(mean, seen))
    as_it_is, shift = _fit(outline, template)
    turned = {words: _fit(np.flip(outline, axes), template)[0] for words, axes in _TURNS.items()}
    best = max(turned, key=lambda way: turned[way])
    if turned[best] > max(as_it_is + _TURNED_BETTER, _LIKE_A_BRAIN):
        raise ValueError(
            f"Expected the brain in {name} to stand as that of MNI152, got one that fits its outline {best} "
            f"({turned[best]:.2f}, and {as_it_is:.2f} as its affine says). {_FIX}"
        )
    here = float((outline * template).sum() / np.sqrt((outline**2).sum() * (template**2).sum()))
    inside = float(outline[_wider(template)].sum() / outline.sum())
    away = -_CELL_MM * np.array(shift)
    if as_it_is > max(here + _MOVED_BETTER, _LIKE_A_PART) and np.abs(away).max() >= _MOVED_MM and inside < _INSIDE:
        words = [
            f"{abs(mm)} mm too far {ways[int(mm > 0)]}"
            for mm, ways in zip(away.tolist(), (("back", "to the front"), ("right", "left"), ("down", "up")))
            if abs(mm) >= _CELL_MM
        ]
        raise ValueError(
            f"Expected the brain in {name} where that of MNI152 lies, got one about {' and '.join(words)} "
            f"({100 * (1 - inside):.0f} % of it is outside of the template). {_FIX}"
        )


def _brain(mean: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The voxels of the brain; in images that keep what lies around it, the bright ones."""
    if seen.mean() <= _MOST_FOREGROUND:
        return seen
    low, high = np.quantile(mean[::2, ::2, ::2], [0.1, 0.95])
    return mean > low + 0.35 * (high - low)


def _shares(brain: np.ndarray) -> np.ndarray:
    """Share of each cell that is brain."""
    padded = np.pad(brain.astype(np.float32), [(0, -length % _CELL) for length in brain.shape])
    y, x, z = (length // _CELL for length in padded.shape)
    return padded.reshape(y, _CELL, x, _CELL, z, _CELL).mean(axis=(1, 3, 5))


def _fit(outline: np.ndarray, template: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """How like the template an outline is where it fits best, and by how many cells (y, x, z) it is moved for that."""
    size = [2 * length for length in outline.shape]
    spectrum = np.fft.rfftn(template, size, axes=(0, 1, 2)) * np.fft.rfftn(outline, size, axes=(0, 1, 2)).conj()
    overlap = np.fft.fftshift(np.fft.irfftn(spectrum, size, axes=(0, 1, 2)))
    near = overlap[tuple(slice(length - _FARTHEST, length + _FARTHEST + 1) for length in outline.shape)]
    best = np.unravel_index(int(near.argmax()), near.shape)
    alike = float(near[best] / np.sqrt((outline**2).sum() * (template**2).sum()))
    return alike, tuple(int(place) - _FARTHEST for place in best)


def _wider(template: np.ndarray) -> np.ndarray:
    """Cells of the template's brain and their neighbours."""
    inside = np.pad(template > 0.5, 1)
    shifted = [np.roll(inside, step, axis) for axis in range(3) for step in (-1, 1)]
    return np.any([inside, *shifted], axis=0)[1:-1, 1:-1, 1:-1]
