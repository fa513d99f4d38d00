"""What ./dev does: sets up, builds, tests. Standard library only, since it runs before anything is installed.

Every command is printed before it runs, so that nothing is known only to this file.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import fake_cuda
import gpu_test
import nsys
import torch_tests
from results import BUDGET_MINUTES, EXIT_FAILED, SHOWN_LINES, Report, say

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BUILD = ROOT / "build"
JOBS = len(os.sched_getaffinity(0))
EXIT_USAGE, EXIT_ENVIRONMENT = 2, 3

# What Debian 12, 13 and Ubuntu 24.04 call what we need; `command` is how we see that it's there.
APT_BUILD = {"g++": "c++", "cmake": "cmake", "ninja-build": "ninja", "nlohmann-json3-dev": None}
APT_TEST_LIBRARIES = {"libgtest-dev": None, "libgmock-dev": None}
APT_TEST = {
    **APT_TEST_LIBRARIES,
    "clang-19": "clang++-19",
    "libclang-rt-19-dev": None,
    "git": "git",
    "spin": "spin",
}
APT_BENCH = {"libbenchmark-dev": None}
APT_ALL = {"g++-aarch64-linux-gnu": "aarch64-linux-gnu-g++", "qemu-user": "qemu-aarch64", "googletest": None, **APT_BENCH}


def give_up(text: str) -> NoReturn:
    print(f"./dev: {text}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_ENVIRONMENT)


def run(
    command: Sequence[object],
    *,
    env: dict[str, str] | None = None,
    timeout: float = 1800,
    quiet: bool = False,
) -> int:
    """Prints and runs one command from the project's root; with `quiet`, shows its output only if it fails.
    One that runs past `timeout` seconds is ended with all that it started."""
    words = [os.path.relpath(w, ROOT) if isinstance(w, Path) else str(w) for w in command]
    settings = [f"{name}={shlex.quote(value)}" for name, value in (env or {}).items()]
    say("+ " + " ".join(settings + [shlex.quote(word) for word in words]))
    output = subprocess.PIPE if quiet else None
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=output,
        stderr=subprocess.STDOUT if quiet else None,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=timeout)
        code = process.returncode
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        if isinstance(error, KeyboardInterrupt):
            raise
        say(f"  stopped: it ran longer than {timeout:.0f} s")
        code = 124
    if code and text:
        lines = text.decode(errors="replace").splitlines()
        if len(lines) > 2 * SHOWN_LINES:
            left_out = f"... {len(lines) - 2 * SHOWN_LINES} lines left out: run the command by hand to see them ..."
            lines = [*lines[:SHOWN_LINES], left_out, *lines[-SHOWN_LINES:]]
        say("\n".join(lines))
    return code


def ask(*command: object) -> subprocess.CompletedProcess[str]:
    """Prints and runs one that only looks at something; what it says is the caller's to read."""
    words = [str(word) for word in command]
    say("+ " + shlex.join(words))
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def must(command: Sequence[object], *, env: dict[str, str] | None = None, quiet: bool = False) -> None:
    if code := run(command, env=env, quiet=quiet):
        say(f"./dev: that ended with {code}")
        raise SystemExit(EXIT_FAILED)


# Set-up: system packages, .venv, wheels.


def missing_packages(wanted: dict[str, str | None]) -> list[str]:
    missing = [name for name, command in wanted.items() if command and not shutil.which(command)]
    libraries = [name for name, command in wanted.items() if not command]
    if shutil.which("dpkg-query"):
        answer = ask("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *libraries).stdout
        there = {line.split()[0] for line in answer.splitlines() if line.endswith(" installed")}
        missing += [name for name in libraries if name not in there]
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        missing.append(f"{python_package()}-dev")
    if ask(sys.executable, "-c", "import ensurepip, venv").returncode:
        missing.append(f"{python_package()}-venv")
    return missing


def python_package() -> str:
    system_default = Path("/usr/bin/python3").resolve() == Path(sys.executable).resolve()
    return "python3" if system_default else f"python{sys.version_info[0]}.{sys.version_info[1]}"


def installer(no_apt: bool) -> list[str] | None:
    """What goes before apt-get: nothing for root, sudo where it needs no password. None: nothing can be installed."""
    if no_apt or not shutil.which("apt-get"):
        return None
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and ask("sudo", "-n", "true").returncode == 0:
        return ["sudo"]
    return None


def install_packages(wanted: dict[str, str | None], no_apt: bool) -> None:
    missing = missing_packages(wanted)
    if not missing:
        return
    command = ["apt-get", "-qy", "install", "--no-install-recommends", *missing]
    sudo = installer(no_apt)
    if sudo is None:
        give_up("these are missing; install them and run this again:\n  " + shlex.join(["sudo", *command]))
    settings = {"DEBIAN_FRONTEND": "noninteractive"}
    must([*sudo, "apt-get", "-q", "update"], quiet=True)
    must([*sudo, "env", *(f"{k}={v}" for k, v in settings.items()), *command], quiet=True)


def venv_python() -> Path:
    return VENV / "bin" / "python"


def tool(name: str) -> Path:
    return VENV / "bin" / name


def set_up(options: argparse.Namespace, packages: dict[str, str | None], groups: Iterable[str]) -> None:
    """Everything that is not ours: packages, .venv, wheels by the dependency groups of pyproject.toml."""
    if sys.version_info < (3, 10):
        give_up(f"Python 3.10 or later is needed; {sys.executable} is {sys.version.split()[0]}. PYTHON= picks another.")
    install_packages(packages, options.no_apt)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    settings = VENV / "pyvenv.cfg"
    if settings.exists() and not re.search(rf"^version\s*=\s*{re.escape(version)}\.", settings.read_text(), re.M):
        say(f"# .venv belongs to another Python than {version}: made anew")
        shutil.rmtree(VENV)
    if not venv_python().exists():
        must([sys.executable, "-m", "venv", VENV])
    if tuple(map(int, pip_version().split(".")[:2])) < (25, 1):  # the first that reads dependency groups
        must([venv_python(), "-m", "pip", "install", "-q", "--upgrade", "pip>=25.1"])
    arguments = [argument for group in groups for argument in ("--group", group)]
    must([venv_python(), "-m", "pip", "install", "-q", *arguments])


def pip_version() -> str:
    return ask(venv_python(), "-c", "import importlib.metadata as m; print(m.version('pip'))").stdout.strip()


def install_project() -> int:
    """Without isolation and with a build folder that stays, so that the second time compiles only what changed."""
    return run(
        [venv_python(), "-m", "pip", "install", "-q", "--no-build-isolation", ".", "-C", "build-dir=build/pip"],
        env={"CMAKE_BUILD_PARALLEL_LEVEL": str(JOBS)},
    )


# The parts of ./dev test.


def build(preset: str, *targets: str) -> bool:
    """Configures and builds a preset; goes on after an error, to show them all."""
    if run(["cmake", "--preset", preset, f"-DPython_EXECUTABLE={venv_python()}"], quiet=True):
        return False
    chosen = ["--target", *targets] if targets else []
    return run(["cmake", "--build", "--preset", preset, *chosen, "--", "-k", "0"], quiet=True) == 0


def ctest(report: Report, preset: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    results = BUILD / preset / "ctest.xml"
    results.unlink(missing_ok=True)
    command = ["ctest", "--preset", preset, "-j", JOBS, "--output-junit", str(results), "-Q", *arguments]
    # The sanitizer presets build no extension: their servers start the dev preset's stub, which is of the same build.
    settings = {
        "TENSORFERRY_PAYLOAD": str(BUILD / "dev" / "python" / "tensorferry" / "payload"),
        "TENSORFERRY_TEST_PYTHON": str(venv_python()),
        **(env or {}),
    }
    code = run(command, quiet=True, env=settings)
    report.add_junit(f"GoogleTest, {preset}", results, code, show=True)


def pytest(report: Report, *arguments: object, env: dict[str, str] | None = None, spare_time: float = 0) -> bool:
    """False where it was ended after the `spare_time`: then nothing is counted."""
    results = BUILD / "pytest.xml"
    results.unlink(missing_ok=True)
    command = [venv_python(), "-m", "pytest", "-q", f"--junitxml={results}", *arguments]
    code = run(command, env=env, timeout=spare_time or 1800)
    if spare_time and code == 124:
        return False
    report.add_junit("pytest", results, code)
    return True


def torch_in_spare_time(report: Report) -> None:
    """Installs PyTorch and runs its tests, where there is time; where it was installed before they have run."""
    if run([venv_python(), *torch_tests.IS_INSTALLED]) == 0:
        return
    spent = sum(report.seconds.values())
    if why := torch_tests.why_no_time(spent):
        report.remarks.append(why)
    elif code := run([venv_python(), *torch_tests.INSTALL_ARGUMENTS], timeout=torch_tests.INSTALL_SECONDS, quiet=True):
        report.remarks.append(torch_tests.why_not_installed(code))
    elif not pytest(report, *torch_tests.PYTEST_ARGUMENTS, spare_time=torch_tests.seconds_for_tests(spent)):
        report.remarks.append(torch_tests.OUT_OF_TIME)


def consumers(report: Report) -> None:
    """Installs the C++ side and builds, as a user would, what finds it there, and what takes it by add_subdirectory."""
    prefix = BUILD / "install"
    shutil.rmtree(prefix, ignore_errors=True)
    installed = (
        run(["cmake", "--build", BUILD / "pip"], quiet=True) == 0
        and run(["cmake", "--install", BUILD / "pip", "--prefix", prefix], quiet=True) == 0
    )
    # What pip installs is not among it.
    installed = installed and sorted(folder.name for folder in prefix.iterdir()) == ["include", "lib"]
    if not report.check("cmake --install", installed):
        return
    projects = [*ROOT.glob("tests/install/*/CMakeLists.txt"), *ROOT.glob("examples/*/CMakeLists.txt")]
    for project in sorted(path.parent for path in projects):
        tree = BUILD / "consumers" / project.name
        shutil.rmtree(tree, ignore_errors=True)
        configure = ["cmake", "-S", project, "-B", tree, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}"]
        ok = run(configure, quiet=True) == 0 and run(["cmake", "--build", tree], quiet=True) == 0
        if ok and (tree / "CTestTestfile.cmake").exists():
            command = ["ctest", "--test-dir", tree, "--output-on-failure", "--no-tests=error"]
            ok = run(command, quiet=True, env={"TENSORFERRY_TEST_PYTHON": str(venv_python())}) == 0
        report.check(f"consumer {project.name}", ok)


def fuzz_target(target: Path, seconds: int) -> int:
    name = target.name.removesuffix("_fuzz")
    found = BUILD / "fuzz" / "corpus" / name
    found.mkdir(parents=True, exist_ok=True)
    seeds = ROOT / "tests" / "fuzz" / "corpus" / name
    folders = [found, seeds] if seeds.is_dir() else [found]
    limits = [f"-max_total_time={seconds}"] if seconds else []
    artifacts = f"-artifact_prefix={BUILD / 'fuzz'}/{name}-"
    command = [target, *limits, "-timeout=10", "-rss_limit_mb=2048", artifacts, *folders]
    return run(command, timeout=seconds + 60 if seconds else 10**9, quiet=bool(seconds))


def fuzz_targets() -> list[Path]:
    names = sorted(source.stem for source in (ROOT / "tests" / "fuzz").glob("*_fuzz.cc"))
    return [BUILD / "asan" / "bin" / name for name in names]


def fuzz_all(report: Report, seconds_each: int | None) -> None:
    targets = fuzz_targets()
    if seconds_each is None:
        rounds = -(-len(targets) // JOBS) or 1
        seconds_each = max(5, min(20, (BUDGET_MINUTES["fuzz"] * 60 - 20) // rounds))
    with ThreadPoolExecutor(JOBS) as pool:
        codes = list(pool.map(lambda target: fuzz_target(target, seconds_each), targets))
    for target, code in zip(targets, codes):
        report.check(f"{target.name}, {seconds_each} s", code == 0)


def tracked(*patterns: str) -> list[str]:
    """The files that git knows or would know; without git, all outside of build folders."""
    if shutil.which("git") and (ROOT / ".git").exists():
        answer = ask("git", "ls-files", "-co", "--exclude-standard", "--", *patterns).stdout.splitlines()
        return [name for name in sorted(set(answer)) if (ROOT / name).exists()]
    found = (p.relative_to(ROOT) for pattern in patterns for p in ROOT.rglob(pattern))
    return sorted(str(p) for p in found if p.parts[0] not in ("build", ".venv"))


def clang_tidy(report: Report, files: list[str], checks: str | None = None) -> None:
    if run(["cmake", "--preset", "tidy", f"-DPython_EXECUTABLE={venv_python()}"], quiet=True):
        report.check("clang-tidy", False)
        return
    database = (BUILD / "tidy" / "compile_commands.json").read_text()
    files = [name for name in files if f'{ROOT / name}"' in database]
    extra = [f"--checks={checks}"] if checks else []
    command = [tool("clang-tidy"), "--quiet", "-p", BUILD / "tidy", *extra]
    with ThreadPoolExecutor(JOBS) as pool:
        codes = list(pool.map(lambda name: run([*command, name], quiet=True, timeout=300), files))
    report.check(f"clang-tidy, {len(files)} files", bool(files) and not any(codes))


def isolated_install(report: Report) -> None:
    """As a user does it: `pip install .` into an environment of its own, with what the build asks for fetched by pip."""
    venv = BUILD / "isolated"
    shutil.rmtree(venv, ignore_errors=True)
    python = venv / "bin" / "python"
    ok = run([sys.executable, "-m", "venv", venv]) == 0 and run([python, "-m", "pip", "install", "-q", "."], quiet=True) == 0
    report.check("pip install . in isolation", ok and run([venv / "bin" / "tensorferry", "demo", "--json"], quiet=True) == 0)


def lint(report: Report, *, everything: bool = False, fix: bool = False) -> None:
    def check(name: str, *command: object) -> None:
        report.check(name, run([tool(str(command[0])), *command[1:]], quiet=True) == 0)

    sources = tracked("*.cc", "*.h")
    BUILD.mkdir(exist_ok=True)
    (BUILD / "sources.txt").write_text("\n".join(sources) + "\n")
    check("clang-format", "clang-format", *(["-i"] if fix else ["-n", "-Werror"]), "--files=build/sources.txt")
    check("ruff check", "ruff", "check", "-q", *(["--fix"] if fix else []), ".")
    check("ruff format", "ruff", "format", "-q", *([] if fix else ["--check"]), ".")
    check("mypy", "mypy")
    check("codespell", "codespell")
    libraries = ("transport/", "cuda/", "stub/", "server/", "python/")
    checked = [name for name in sources if name.endswith(".cc") and (everything or name.startswith(libraries))]
    clang_tidy(report, checked)
    if everything:
        clang_tidy(report, checked, "-*,clang-analyzer-*,-clang-analyzer-optin.performance.Padding")


def stubs(report: Report) -> None:
    """What the .pyi files of the extensions say, against the extensions."""
    for file in sorted((ROOT / "python" / "tensorferry").glob("_*.pyi")):
        command = [
            tool("stubtest"),
            f"tensorferry.{file.stem}",
            "--allowlist",
            "tools/stubtest.txt",
            "--ignore-unused-allowlist",
        ]
        report.check(f"stubtest {file.stem}", run(command, quiet=True) == 0)


# The verbs.


def verb_demo(options: argparse.Namespace) -> int:
    """Real models, real requests: what was copied and how long it took; without a GPU device tensors on an emulated one"""
    emulated = gpu_test.why_no_device() is not None
    can_do_without = APT_TEST_LIBRARIES if emulated and installer(options.no_apt) is not None else {}
    set_up(options, {**APT_BUILD, **can_do_without}, ["build", "emulator"])
    if install_project():
        return EXIT_FAILED
    if emulated and not build("dev", fake_cuda.DRIVER):
        say("# without the emulated GPU, which could not be built, there are no device tensors to show")
    libraries = BUILD / "dev" / "fake_cuda"
    env = fake_cuda.environment(libraries, runtimes=False) | {"FAKECUDA_QUIET": "1"} if emulated else {}
    return run([tool("tensorferry"), "demo", *options.rest], env=env)


def verb_test(options: argparse.Namespace) -> int:
    """Everything that CI runs; --all adds what takes long, --with torch adds PyTorch, --spare-time torch if time is left"""
    report = Report()
    packages = {**APT_BUILD, **APT_TEST, **(APT_ALL if options.all else {})}
    groups = ["build", "test", "lint", "bench", "cuda", *options.extras]
    with report.part("set-up"):
        set_up(options, packages, groups)
    BUILD.mkdir(exist_ok=True)
    with report.part("builds"):
        report.check("build dev", build("dev"))
        report.check("each public header alone", build("dev", "all_verify_interface_header_sets"))
        installed = report.check("pip install", install_project() == 0)
        report.check("build asan, with the fuzz targets", build("asan"))
        report.check("build tsan", build("tsan", "tensorferry_transport_test"))
    long_seeds = {"TENSORFERRY_LONG_TESTS": "1"} if options.all else {}
    with report.part("tests"):
        ctest(report, "dev", env=long_seeds)
        ctest(report, "asan", env=long_seeds)
        ctest(report, "tsan", "-L", "^transport$", env=long_seeds)
        if installed:
            consumers(report)
            pytest(report, *([] if options.all else ["-m", "not slow"]))
    with report.part("fuzz"):
        fuzz_all(report, 60 if options.all else None)
    with report.part("lint"):
        lint(report, everything=options.all)
        stubs(report)
    if options.spare_time:
        with report.part("torch"):
            torch_in_spare_time(report)
    if options.all:
        with report.part("more"):
            seeds = [venv_python(), ROOT / "tools" / "seeds.py", "--seeds", "1000"]
            report.check("1,000 seeds of the random scheduler", run(seeds, timeout=7200) == 0)
            mutations = [venv_python(), ROOT / "tools" / "mutations.py"]
            report.check("every mutation is noticed", run(mutations, timeout=7200) == 0)
            report.check("build ubsan", build("ubsan"))
            ctest(report, "ubsan")
            report.check("build bench", build("bench", "tensorferry_bench"))
            isolated_install(report)
            report.check("build aarch64", build("aarch64", "tensorferry_transport_test"))
            ctest(report, "aarch64", "-L", "^transport$")
    return report.close(budgets=not options.all)


def verb_lint(options: argparse.Namespace) -> int:
    """Formatting, types, spelling, static analysis; --fix formats in place"""
    report = Report()
    with report.part("set-up"):
        set_up(options, {**APT_BUILD, "git": "git"}, ["build", "lint", "test", "bench"])
    with report.part("lint"):
        lint(report, everything=options.all, fix=options.fix)
    return report.close()


def verb_fuzz(options: argparse.Namespace) -> int:
    """NAME: one fuzz target until you stop it (or --seconds N)"""
    set_up(options, {**APT_BUILD, **APT_TEST}, ["build"])
    targets = {target.name.removesuffix("_fuzz"): target for target in fuzz_targets()}
    name = options.rest[0].removesuffix("_fuzz") if options.rest else ""
    if name not in targets:
        print("./dev fuzz NAME, one of: " + " ".join(targets), file=sys.stderr)
        return EXIT_USAGE
    if not build("asan", targets[name].name):
        return EXIT_FAILED
    return run([targets[name], "-help=1"], quiet=True) or fuzz_target(targets[name], options.seconds)


def verb_bench(options: argparse.Namespace) -> int:
    """What a crossing costs, against its peers and our goals; --quick takes two minutes"""
    can_do_without = {} if installer(options.no_apt) is None else APT_BENCH
    set_up(options, {**APT_BUILD, **can_do_without}, ["build", "bench"])
    if install_project() or not build("bench", "tensorferry_bench"):
        return EXIT_FAILED
    if not (BUILD / "bench" / "bin" / "ring_bench").exists():
        say(f"# without Google Benchmark ({' '.join(APT_BENCH)}) the micro benches are left out")
    results = ["--json", BUILD / "bench.json", "--svg", BUILD / "bench.svg", "--markdown", BUILD / "bench.md"]
    return run([venv_python(), "bench", *results, *options.rest])


def verb_fake_cuda(options: argparse.Namespace) -> int:
    """-- COMMAND: runs it on the emulated CUDA driver; --profile P, --sched S, --devices N"""
    set_up(options, {**APT_BUILD, **APT_TEST_LIBRARIES}, ["build", "test"])
    if not build("dev", *fake_cuda.TARGETS):
        return EXIT_FAILED
    return fake_cuda.run(BUILD / "dev" / "fake_cuda", options.rest)


def verb_gpu_test(options: argparse.Namespace) -> int:
    """On a real GPU: what documents leave open, the GPU tests, a bench; --emulated: does it all run, without one"""
    emulated = "--emulated" in options.rest
    rest = [word for word in options.rest if word != "--emulated"]
    if not emulated and (why := gpu_test.why_no_device()):
        give_up(f"gpu-test: there is no GPU to test on: {why}")
    set_up(options, {**APT_BUILD, **APT_TEST_LIBRARIES}, ["build", "test", "bench", "cuda", *options.extras])
    report = Report()
    with report.part("builds"):
        targets = [*gpu_test.TARGETS, *(fake_cuda.TARGETS if emulated else ())]
        report.check("build dev", build("dev", *targets))
        report.check("pip install", install_project() == 0)
    emulator = fake_cuda.environment(BUILD / "dev" / "fake_cuda") if emulated else {}
    env = {**emulator, **gpu_test.MACHINES_DRIVER}
    # The runtime that is preloaded for PyTorch loads the driver; tests say that nobody does before it must.
    bare = {name: value for name, value in env.items() if name != "LD_PRELOAD"}
    with report.part("probe"):
        report.check("gpu-probe", gpu_test.probe(BUILD / "dev" / "bin" / "gpu-probe", BUILD, bare) == 0)
    with report.part("tests"):
        ctest(report, "dev", *gpu_test.CTEST_ARGUMENTS, env=bare)
        pytest(report, "tests/gpu", "--ignore-glob=*/test_torch_*", env=bare)
        if run([venv_python(), *torch_tests.IS_INSTALLED]) == 0:
            pytest(report, *gpu_test.TORCH_TESTS, env=env)
    with report.part("bench"):
        report.check("bench/gpu.py", run([venv_python(), *gpu_test.bench_command(BUILD, rest)], env=env) == 0)
        if emulated:
            report.check("bench/poller.py", run([venv_python(), *gpu_test.poller_command(BUILD)], env=bare) == 0)
    if emulated:
        say("# All of this was emulated: it shows that the commands run, and nothing of any device.")
    return report.close(budgets=False)


def verb_nsys(options: argparse.Namespace) -> int:
    """-- COMMAND: runs it under Nsight Systems, fetched if need be, and shows each request's ranges of server and stub"""
    set_up(options, APT_BUILD, ["build"])
    if install_project():
        return EXIT_FAILED
    return nsys.run(BUILD / "nsys", options.rest, tensorferry=tool("tensorferry"))


def verb_doctor(options: argparse.Namespace) -> int:
    """What this machine has and lacks, for building and for running; changes nothing"""
    missing = missing_packages({**APT_BUILD, **APT_TEST})
    say(f"python   {sys.executable} {sys.version.split()[0]}")
    for command in ("c++", "cmake", "ninja", "clang++-19", "ccache"):
        path = shutil.which(command)
        answer = ask(path, "--version").stdout if path else ""
        say(f"{command:10} {answer.splitlines()[0] if answer else 'not here'}")
    say("packages   " + ("missing: " + " ".join(missing) if missing else "all there"))
    if not tool("tensorferry").exists():
        say("tensorferry  not installed in .venv yet: ./dev demo does that")
        return EXIT_ENVIRONMENT if missing else 0
    return run([tool("tensorferry"), "doctor", *options.rest])


def verb_clean(options: argparse.Namespace) -> int:
    """Removes build/, .venv/ and the tools' caches"""
    for name in ("build", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"):
        if (ROOT / name).exists():
            say(f"+ rm -r {name}")
            shutil.rmtree(ROOT / name)
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": verb_demo,
    "test": verb_test,
    "bench": verb_bench,
    "lint": verb_lint,
    "fuzz": verb_fuzz,
    "fake-cuda": verb_fake_cuda,
    "gpu-test": verb_gpu_test,
    "nsys": verb_nsys,
    "doctor": verb_doctor,
    "clean": verb_clean,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev", add_help=False)
    parser.add_argument("verb", nargs="?")
    parser.add_argument("--no-apt", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--fix", action="store_true")
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--with", dest="extras", action="append", default=[], choices=["torch"])
    parser.add_argument("--spare-time", choices=["torch"])
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)  # what follows is nobody's options here
    options, rest = parser.parse_known_args(words[:cut])
    options.rest = [*rest, *words[cut:]]
    if options.verb not in VERBS:
        for name, verb in VERBS.items():
            print(f"./dev {name:9} {verb.__doc__}")
        print("\n--no-apt: never touch the system.  PYTHON=/path/to/python ./dev ...: another interpreter.")
        return 0 if options.verb is None else EXIT_USAGE
    return VERBS[options.verb](options)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
