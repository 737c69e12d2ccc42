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
    """Give libraries what they expect of a user's account, for this process and its children.

    matplotlib, torch and Triton keep caches in the home folder or under the user's name. Without a
    home folder that can be written they go into ours, if that is known; what the user has set
    stays. A user without a name gets one of the user's number.
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
