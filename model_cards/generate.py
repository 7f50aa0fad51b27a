"""Write one model card for each published checkpoint, from the registry of the package.

    python model_cards/generate.py

Cards of converted folders are written by the conversion scripts, with the hash of the file that was converted. These
here describe the published checkpoints before anybody has converted them.
"""

import argparse
from pathlib import Path

import brain_transformers as bt
from brain_transformers.files import write_file
from brain_transformers.hub.model_card import build_model_card
from brain_transformers.hub.registry import MODELS

FOLDER = Path(__file__).resolve().parent

_OBTAIN = """\
From the authors ({source}), and converted on your machine. The table that the command names is theirs as well.

```bash
{command}
```"""
_NO_CONVERTER = "From the authors ({source}). This version has no converter for these weights yet."
_BRAINLM = "convert_brainlm.py --checkpoint {folder}/ --coordinates A424_Coordinates.dat"
_BRAIN_JEPA = "convert_brain_jepa.py --checkpoint {folder} --gradient gradient_mapping_450.csv"
_BRAIN_SEMANTOKS = "convert_brain_semantoks.py --checkpoint {folder} --network-map network_mapping.npz"
_CONVERTERS = {
    "brainlm_mae": _BRAINLM,
    "brainlm_vit_mae": _BRAINLM,
    "brain_jepa": _BRAIN_JEPA,
    "brain_semantoks": _BRAIN_SEMANTOKS,
}


def obtain(name: str) -> str:
    """How to get a published checkpoint, as Markdown."""
    source = MODELS[name].source or ""
    converter = _CONVERTERS.get(bt.load_config(name).model_type)
    if converter is None:
        return _NO_CONVERTER.format(source=source)
    arguments = converter.format(folder=source.rpartition(" ")[2])
    options = f"--output {name}/ --source {source.partition(',')[0]}"
    return _OBTAIN.format(source=source, command=f"python conversion/{arguments} {options}")


def cards() -> dict[str, str]:
    """File name -> text of the card, for every published checkpoint."""
    return {
        f"{name}.md": build_model_card(name, MODELS[name], bt.load_config(name), obtain=obtain(name))
        for name in bt.list_models(published=True)
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a card is not current")
    options = parser.parse_args(arguments)
    wanted = cards()
    present = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    if options.check:
        stale = sorted(name for name in wanted | present if wanted.get(name) != present.get(name))
        print(f"not current: {', '.join(stale)}; run `make cards`" if stale else f"{len(wanted)} cards are current")
        return int(bool(stale))
    for name in present.keys() - wanted.keys():
        (FOLDER / name).unlink()
    for name, text in wanted.items():
        write_file(FOLDER / name, text)
    print(f"{len(wanted)} cards written to {FOLDER}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
