"""One run of the whole pipeline at toy size, made once and shared by every test that needs a real run."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TINY_RECIPE = Path(__file__).parent / "recipes" / "tiny.toml"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browsers come last: Playwright keeps an event loop running in this thread, and asyncio allows but one."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What runs share is shared by the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATSMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    # Flushing protects against a power cut, which no test here causes, and takes most of their time.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _the_machine_is_measured_once() -> Iterator[None]:
    """Its fastest matrix product takes most of a second to find, and each training asks for it, once or twice."""
    if "torch" not in sys.modules:
        yield
        return
    from chatsmith.cli import plan
    from chatsmith.runtime.device import gemm_peak
    from chatsmith.train import step, trainer

    peaks: dict[object, float] = {}

    def peak(runtime, dtype, **options) -> float:
        kind = runtime.device, dtype
        if kind not in peaks:
            peaks[kind] = gemm_peak(runtime, dtype, **options)
        return peaks[kind]

    with pytest.MonkeyPatch.context() as patch:
        for module in (plan, step, trainer):
            patch.setattr(module, "gemm_peak", peak)
        yield


@pytest.fixture(scope="session")
def run_tiny() -> Callable[..., None]:
    """Runs the tiny recipe into a folder, on one thread: two make work this small slower, and less repeatable."""

    def run(folder: Path, *argv: str) -> None:
        import torch

        from chatsmith.cli import main as cli

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            assert cli.main(["run", str(TINY_RECIPE), "--run", str(folder), *argv], {}) == 0
        finally:
            torch.set_num_threads(threads)

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, run_tiny: Callable[..., None]) -> Path:
    """The run directory of the tiny recipe, all stages done. To be read; take `tiny_copy` to change something."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(folder)
    return folder


@pytest.fixture
def tiny_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A run directory like `tiny_run`, the test's own."""
    return shutil.copytree(tiny_run, tmp_path / "tiny")


@pytest.fixture(scope="session")
def subprocess_environment() -> dict[str, str]:
    """For `chatsmith` in a process of its own: one thread, and none of the caller's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATSMITH_")}
    kept["CHATSMITH_CACHE"] = os.environ["CHATSMITH_CACHE"]
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
