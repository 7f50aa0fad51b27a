"""`brain-transformers convert brain_harmony` as a script of a checkout: the authors' checkpoints to ours."""

import functools

from brain_transformers.cli.convert import main as convert

main = functools.partial(convert, "brain_harmony")

if __name__ == "__main__":
    raise SystemExit(main())
