"""Networks of parcels, from their names."""

import pytest

from brain_transformers.atlases.networks import networks_of_parcels
from brain_transformers.atlases.roi_orders import roi_labels


def test_networks_move_with_the_order_of_the_parcels() -> None:
    own, names = networks_of_parcels("schaefer400-7net+tian-s3+buckner7")
    other, same_names = networks_of_parcels("tian-s3+schaefer400-17net")
    assert names[:8] == same_names
    assert sorted(own[:450]) == sorted(other)
    labels = [*roi_labels("schaefer400-17net")]
    assert networks_of_parcels(labels)[0] == other[50:]
    assert networks_of_parcels("a424") is None
    assert networks_of_parcels(None) is None
    with pytest.raises(ValueError, match="7 or 17"):
        networks_of_parcels("schaefer400-7net", 9)
