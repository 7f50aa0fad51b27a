"""`brain-transformers convert harmonix_f` as a script of a checkout: the authors' checkpoints to ours."""

import functools

from brain_transformers.cli.convert import main as convert

main = functools.partial(convert, "harmonix_f")

if __name__ == "__main__":
    raise SystemExit(main())
