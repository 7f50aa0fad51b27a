"""`brain-transformers convert`: from the authors' files to a folder that `from_pretrained` loads."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..families import FAMILIES
from .failures import answer
from .flags import Parser

# One for each set of authors; some serve two families.
_FAMILY_OF = {family.converter: family for family in FAMILIES if family.converter is not None}


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "convert",
        help="make a model folder of the authors' files",
        usage=f"brain-transformers convert [-h] {{{','.join(_FAMILY_OF)}}} --checkpoint ... --output ...",
        description="Convert published weights, as their authors share them, to a folder that from_pretrained loads.",
        epilog="What is taken differs: see `brain-transformers convert brainlm --help` and the like.",
    )
    parser.add_argument("family", choices=tuple(_FAMILY_OF), help="whose files they are")
    # Read when the family is known: its flags stand with its converter, which imports torch.
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="options", help=argparse.SUPPRESS)


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    parser = _parser(args.family, f"brain-transformers convert {args.family}")
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.parse_args(args.words, args)
    return _convert(args.family, args)


def main(family: str, arguments: list[str] | None = None) -> int:
    """A converter as a script of its own; returns the exit code: 0, 2 with the reason in one line, 130, 143."""
    args = _parser(family).parse_args(arguments)
    words = [Path(sys.argv[0]).name, *(sys.argv[1:] if arguments is None else arguments)]
    return answer(lambda: _convert(family, args), args, words)


def _parser(family: str, prog: str | None = None) -> argparse.ArgumentParser:
    converter = _FAMILY_OF[family].load_converter()
    parser = Parser(prog=prog, description=converter.description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_converter_flags(parser, converter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write; appears complete or not at all")
    parser.add_argument(
        "--source",
        help="where you got the file, such as vandijklab/brainlm; the card says it, and otherwise calls it unknown",
    )
    parser.add_argument("--push-to-hub", metavar="ORG/NAME", help="upload the result to a private repository")
    parser.add_argument(
        "--allow-restricted",
        action="store_true",
        help="upload weights although they must not be shared without their authors' word, since you have it",
    )
    return parser


def add_converter_flags(parser: argparse.ArgumentParser, converter: Any, required: bool = True) -> None:
    """Add what a converter takes; the first of its files may be required."""
    for number, file in enumerate(converter.files):
        parser.add_argument(_flag(file.name), type=Path, required=required and number == 0, help=file.help)
    for name, settings in converter.flags.items():
        parser.add_argument(_flag(name), **settings)


def given_to(converter: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What was given for a converter: its files and flags by name."""
    return {name: getattr(args, name) for name in (*(file.name for file in converter.files), *converter.flags)}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _convert(family: str, args: argparse.Namespace) -> int:
    from ..conversion.convert import check_output, convert
    from ..hub.conversions import save_converted
    from ..hub.sharing import check_repo_id, push_folder

    converter = _FAMILY_OF[family].load_converter()
    if args.push_to_hub is not None:
        check_repo_id(args.push_to_hub)  # now, and not after the work
    given = given_to(converter, args)
    check_output(args.output, *(given[file.name] for file in converter.files))
    done = convert(converter, **given)
    save_converted(done, args.output, args.source)
    for warning in done.converted.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{type(done.model).__name__} written to {args.output}")
    if args.push_to_hub:
        url = push_folder(args.output, args.push_to_hub, allow_restricted=args.allow_restricted)
        print(f"uploaded to {url}, a private repository")
    return 0
