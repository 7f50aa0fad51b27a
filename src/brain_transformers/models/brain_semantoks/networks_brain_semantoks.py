"""Which functional network a parcel belongs to, from the names of the parcels."""

import functools
from importlib import resources

import numpy as np

SUBCORTEX, CEREBELLUM = "Subcortex", "Cerebellum"
# Parcels of Buckner's cerebellar atlas have numbers only; see `processing.roi_orders`.
_BUCKNER7 = tuple(f"buckner7-{label}" for label in range(1, 8))


@functools.cache
def _priors() -> dict[str, np.ndarray]:
    path = resources.files("brain_transformers") / "assets" / "priors_schaefer400.npz"
    with path.open("rb") as file, np.load(file) as archive:
        keys = ("names7", "names17", "order17_to_7", "network7", "network7_names", "tian_s3_names")
        return {key: archive[key] for key in keys}


def _labels(atlas: str) -> tuple[str, ...] | None:
    if atlas == "buckner7":
        return _BUCKNER7
    key = {"schaefer400-7net": "names7", "schaefer400-17net": "names17", "tian-s3": "tian_s3_names"}.get(atlas)
    return None if key is None else tuple(str(name) for name in _priors()[key])


@functools.cache
def _network_of_label(n_cortical: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """Network of every parcel name that we know, and the networks in their usual order."""
    priors = _priors()
    names7, names17 = (tuple(str(name) for name in priors[key]) for key in ("names7", "names17"))
    twin = {row: int(other) for row, other in enumerate(priors["order17_to_7"])}
    networks: dict[str, str] = {}
    order: list[str] = []
    if n_cortical == 7:
        order = [str(name) for name in priors["network7_names"]]
        of_row = [order[int(network)] for network in priors["network7"]]
        networks.update(zip(names7, of_row))
        networks.update({names17[row]: of_row[other] for row, other in twin.items()})
    else:
        for row, name in enumerate(names17):
            network = name.split("_")[2]  # such as 17Networks_LH_VisCent_ExStr_1
            networks[name] = networks[names7[twin[row]]] = network
            if network not in order:
                order.append(network)
    networks.update(dict.fromkeys((str(name) for name in priors["tian_s3_names"]), SUBCORTEX))
    networks.update(dict.fromkeys(_BUCKNER7, CEREBELLUM))
    return networks, (*order, SUBCORTEX, CEREBELLUM)


def networks_of_parcels(roi_order: str | list[str] | None, n_cortical: int = 7) -> tuple[list[int], list[str]] | None:
    """Network of each parcel of an order, or `None` where the names do not tell.

    Cortical networks are those of the names of the Schaefer-400 parcels, in the order of the 7-network edition or of
    their first parcel in the 17-network edition; then subcortex (Tian S3) and cerebellum (Buckner). Networks without a
    parcel get no number. For `schaefer400-7net+tian-s3+buckner7` these are the networks of Brain-Semantoks.

    Args:
        roi_order: name of an order made of those atlases, or a list of their labels.
        n_cortical: 7 or 17.

    Returns:
        A network id per parcel, 0-based without gaps, and the name of each id.

    Raises:
        ValueError: if `n_cortical` is neither 7 nor 17.
    """
    if n_cortical not in (7, 17):
        raise ValueError(f"n_cortical must be 7 or 17, the editions of the Schaefer parcellation, got {n_cortical}.")
    if roi_order is None:
        return None
    labels: list[str] = []
    if isinstance(roi_order, str):
        for atlas in roi_order.split("+"):
            part = _labels(atlas)
            if part is None:
                return None
            labels += part
    else:
        labels = list(roi_order)
    networks, order = _network_of_label(n_cortical)
    if any(label not in networks for label in labels):
        return None
    present = [name for name in order if name in {networks[label] for label in labels}]
    return [present.index(networks[label]) for label in labels], present
