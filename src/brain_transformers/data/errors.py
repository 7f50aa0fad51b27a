"""The error of everything that reads scans; a leaf, so that each reader can raise it."""

from ..foreign import ForeignFileError


class ROISeriesReadError(ForeignFileError):
    """A file that cannot be used as what it was said to be; the message names the file."""
