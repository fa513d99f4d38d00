"""What the marker `emulated` means."""

from emulated_hooks import *  # noqa: F403
