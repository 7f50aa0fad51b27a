"""What licences of weights ask for, in words."""

import re

_ADDRESS = "https://creativecommons.org/licenses"


def terms_of(*names: str | None) -> list[str]:
    """What a licence does not allow, a sentence each; `names` are its identifier and, if it has one, its name."""
    words = set(re.split(r"[\W_]+", " ".join(map(str, names)).lower().replace("non-c", "nonc")))
    terms = []
    if words & {"nc", "noncommercial"}:
        terms.append("The weights may be used for non-commercial purposes only.")
    if "nd" in words:
        terms.append(
            "They may not be shared in changed form. Converted and fine-tuned weights are changed forms: keep them to "
            "yourself, or ask the authors before you publish them."
        )
    return terms


def in_words(license: str | None) -> str:
    """A licence of published weights in a few lines."""
    if license in (None, "unknown"):
        return "none is stated: ask the authors before you share converted or fine-tuned weights"
    match = re.fullmatch(r"cc-(by[a-z-]*)-(\d\.\d)", str(license))
    address = f" ({_ADDRESS}/{match[1]}/{match[2]}/)" if match else ""
    return "\n  ".join([f"{license}{address}", *terms_of(license)])
