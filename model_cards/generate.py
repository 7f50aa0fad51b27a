"""Write one model card for each published model, from the registry of the package.

    python model_cards/generate.py

Cards of converted folders are written by the conversion scripts, with the hash of the file that was converted. These
here describe the published checkpoints before anybody has converted them, and families without any.
"""

import argparse
from pathlib import Path

import brain_transformers as bt
from brain_transformers.families import FAMILIES
from brain_transformers.files import write_file
from brain_transformers.hub.model_card import build_model_card
from brain_transformers.hub.registry import MODELS, conversion_command

FOLDER = Path(__file__).resolve().parent

_OBTAIN = """\
From the authors ({source}), checked and converted on your machine into the cache that every command and
`brain_transformers.load("{name}")` look in.{elsewhere}

```bash
brain-transformers get {name} --accept-license{given}
```

Or into a folder of yours, of files that you have:

```bash
{command}
```"""

_MAKE = """\
There is nothing to download. A model with random weights that fits a dataset of yours, trained on a column of it:

```bash
brain-transformers finetune --dataset dataset/ --model {name} --label COLUMN --output run/
```

or in Python `model, extractor = brain_transformers.new_model("{name}", dataset)`. Weights that you trained with the
authors' code become a model folder by `brain-transformers convert {converter} --checkpoint FILE --output FOLDER`."""


def obtain(name: str) -> str:
    """How to get a published checkpoint, or a model whose weights were never published, as Markdown."""
    if MODELS[name].source is None:
        return _MAKE.format(name=name, converter=bt.load_config(name).family.converter)
    files = [file for file in MODELS[name].files if file.repository is None]
    return _OBTAIN.format(
        source=MODELS[name].source,
        name=name,
        elsewhere=" What is not on the Hub you download yourself:\n" * bool(files)
        + "".join(f"\n- `{file.name}`: {file.download}" for file in files),
        given="".join(f" {file.flag} {file.name}" for file in files),
        command=conversion_command(name),
    )


def cards() -> dict[str, str]:
    """File name -> text of the card, for every published checkpoint, and the first model of a family without any."""
    published = bt.list_models(published=True)
    first = [next(iter(family.models)) for family in FAMILIES if not set(family.models) & set(published)]
    return {
        f"{name}.md": build_model_card(name, MODELS[name], bt.load_config(name), obtain=obtain(name))
        for name in [*published, *first]
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
