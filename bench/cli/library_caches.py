"""Cache folders of libraries, for users whose home folder is missing or cannot be written."""

import getpass
import os
from contextlib import suppress

from refsys.home import home

# Variable -> name of the folder inside ours.
_FOLDERS = {
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}


def provide_library_caches() -> None:
    """Set what libraries expect of a user's account, for this process and its children.

    matplotlib, torch and Triton keep caches in the home folder or under the user's name. Without a
    writable home folder they go into the project's folder, if that is known; variables that the
    user has set are not changed. A user without a name gets the user number as one.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    # Without HOME and an entry in the password file, "~" stays as it is.
    account = os.path.expanduser("~")
    if os.path.isabs(account) and os.access(account, os.W_OK):
        return
    with suppress(Exception):  # ours is unknown, too: the command that needs it says so
        caches = home().absolute() / "libraries"
        for variable, name in _FOLDERS.items():
            os.environ.setdefault(variable, str(caches / name))
