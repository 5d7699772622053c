"""Training of GANs: config -> build -> loop -> metrics -> run folder."""

import sys

__version__ = "0.2.0"

if sys.argv[:1] == ["-m"] and any(word.removeprefix("-m").startswith("gan.") for word in sys.orig_argv):
    # Not an import, but the start of a command: Python imports this package before the module of `python -m gan.NAME`.
    from gan.runtime.startup import exit_when_interrupted

    exit_when_interrupted()
