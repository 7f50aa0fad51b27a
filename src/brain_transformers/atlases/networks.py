"""Which functional network a parcel belongs to, from the names of the parcels."""

import functools

from .assets import atlas_labels, prior, rows_of_edition
from .roi_orders import ROIOrder, labels_of

SUBCORTEX, CEREBELLUM = "Subcortex", "Cerebellum"


@functools.cache
def _network_of_label(n_cortical: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """Network of every parcel name that we know, and the networks in their usual order."""
    names7, names17 = atlas_labels("schaefer400-7net"), atlas_labels("schaefer400-17net")
    if n_cortical == 7:
        order = [str(name) for name in prior("network7_names")]
        networks = dict(zip(names7, (order[number] for number in prior("network7"))))
        networks |= dict(
            zip(names17, (order[number] for number in rows_of_edition(prior("network7"), "schaefer400-17net")))
        )
    else:
        networks = {name: name.split("_")[2] for name in names17}  # such as 17Networks_LH_VisCent_ExStr_1
        order = list(dict.fromkeys(networks.values()))
        networks |= {names7[twin]: networks[name] for name, twin in zip(names17, prior("order17_to_7"))}
    networks |= dict.fromkeys(atlas_labels("tian-s3"), SUBCORTEX)
    networks |= dict.fromkeys(atlas_labels("buckner7"), CEREBELLUM)
    return networks, (*order, SUBCORTEX, CEREBELLUM)


def networks_of_parcels(roi_order: ROIOrder | None, n_cortical: int = 7) -> tuple[list[int], list[str]] | None:
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
    labels = labels_of(roi_order)
    networks, order = _network_of_label(n_cortical)
    if labels is None or any(label not in networks for label in labels):
        return None
    of_parcels = [networks[label] for label in labels]
    present = [name for name in order if name in of_parcels]
    return [present.index(network) for network in of_parcels], present
