"""`python -m pipeline.logged dramatiq ...`: a program of a library's, with our form of log from its first line on.

dramatiq's master process and the beginning of periodiq read no setting of ours. LOG_FORMAT=text changes nothing.
"""

from __future__ import annotations

import logging
import shutil
import sys
from importlib.metadata import entry_points
from typing import Any

from pipeline.logs import use_json
from pipeline.settings import settings_or_exit


def main() -> None:
    """Run the command that the arguments are, one of those installed beside this Python."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m pipeline.logged dramatiq|periodiq ARGUMENT...")
    program = sys.argv[1]
    (command,) = entry_points(group="console_scripts", name=program) or [None]
    if command is None:
        sys.exit(f"error: {program} is no command that is installed here.")
    sys.argv = [shutil.which(program) or program, *sys.argv[2:]]
    settings = settings_or_exit()
    if settings.log_format == "json":
        _configure_in_json()
    sys.exit(command.load()())


def _configure_in_json() -> None:
    """Both programs set their logs up by `basicConfig`, dramatiq in each of its processes anew."""
    theirs = logging.basicConfig

    def configure(**options: Any) -> None:
        theirs(**options)
        use_json()

    logging.basicConfig = configure


if __name__ == "__main__":
    main()
