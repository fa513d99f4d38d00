"""PyTorch's tests where it wasn't installed from the beginning: what `./dev test --spare-time torch` does,
and so CI, at the end.

PyTorch is 5 GB to install and its tests take some minutes. So they run where there is time left of what CI may take; where
there is not, or it can't be installed, the closing line says so. `./dev test --with torch` always runs them.
"""

from __future__ import annotations

RUN_MINUTES = 28  # of the 30 that CI may take
INSTALL_SECONDS = 240
FEWEST_SECONDS = 150  # for the tests; they are ended when the run's time is over
WHAT = "PyTorch's tests were not run"
OUT_OF_TIME = "PyTorch's tests were ended: their time was over"

# Skipped without it, and nothing else in them but the cases of the last one.
TESTS = (
    "tests/python/test_torch.py",
    "tests/fake_cuda/test_torch_on_it.py",
    "tests/fake_cuda/test_torch_expandable.py",
    "tests/fake_cuda/test_torch_shares.py",
    "tests/gpu/test_bare_torch.py",
    "tests/gpu/test_torch_in_a_stub.py",
    "tests/gpu/test_torch_on_devices.py",
    "tests/python/test_dlpack_matrix.py",
)
PYTEST_ARGUMENTS = (*TESTS, "-k", "torch")
INSTALL_ARGUMENTS = ("-m", "pip", "install", "-q", "--group", "torch")
# As its exit code, whether it is there.
IS_INSTALLED = ("-c", "import importlib.util as u; raise SystemExit(u.find_spec('torch') is None)")


def seconds_for_tests(spent: float) -> float:
    """What is left for them after so many seconds of the run, whatever the installation takes."""
    return RUN_MINUTES * 60 - spent - INSTALL_SECONDS


def why_no_time(spent: float) -> str | None:
    """Nothing where there is time to install it and to run its tests."""
    if seconds_for_tests(spent) >= FEWEST_SECONDS:
        return None
    return f"{WHAT}: of {RUN_MINUTES} minutes {spent / 60:.0f} were over; ./dev test --with torch runs them"


def why_not_installed(code: int) -> str:
    return f"{WHAT}: it can't be installed (pip ended with {code})"
