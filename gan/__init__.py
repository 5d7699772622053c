"""Training of GANs: config -> build -> loop -> metrics -> run folder."""

import sys

__version__ = "0.2.0"

if sys.argv[:1] == ["-m"]:
    # Not an import, but the start of a command: Python imports this package before the module of `python -m gan.NAME`.
    from gan.runtime.early import start_command

    start_command(sys.orig_argv[-len(sys.argv)].removeprefix("-m"), sys.argv[1:])
