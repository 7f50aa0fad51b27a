"""The error of everything that reads foreign files; a leaf, so that each reader can raise it."""


class ROISeriesReadError(ValueError):
    """A file that cannot be used as what it was said to be; the message names the file."""
