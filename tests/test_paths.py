"""Where things lie, in a checkout and in a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from quanttui import paths

CHECKOUT = Path(__file__).resolve().parents[1]


def test_a_checkout_is_known_by_its_project_file() -> None:
    assert paths.checkout() == CHECKOUT
    assert paths.shipped_config() == CHECKOUT / "config.toml"
    assert paths.themes()[0] == CHECKOUT / "themes"
    assert paths.sessions_dir() == CHECKOUT / "sessions"


@pytest.mark.parametrize("project", [None, '[project]\nname = "another"\n', b"\xff\xfe not text"])
def test_a_package_beside_another_project_is_installed(tmp_path: Path, project: str | bytes | None) -> None:
    if project is not None:
        (tmp_path / "pyproject.toml").write_bytes(project if isinstance(project, bytes) else project.encode())
    package = tmp_path / "quanttui"
    assert paths.checkout(package) is None
    assert paths.shipped(package) == package / "shipped"
    assert tmp_path not in paths.sessions_dir(package=package).parents


def test_a_folder_that_is_asked_for_is_taken_and_its_tilde_expanded() -> None:
    assert paths.sessions_dir("/data/sessions") == Path("/data/sessions")
    assert paths.cache_dir("~/quants") == Path.home() / "quants"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (packed,) = folder.glob("*.whl")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_finds_its_configuration_and_themes(wheel: Path) -> None:
    script = (
        "from quanttui import paths; import quanttui; print(quanttui.__file__); print(paths.shipped_config()); "
        "print(paths.themes()[0]); print(paths.checkout())"
    )
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=wheel, env=environment, check=True, capture_output=True, text=True
    )
    module, shipped, themes, checkout = done.stdout.splitlines()
    assert Path(module).parent == wheel / "quanttui"
    assert checkout == "None"
    assert Path(shipped).read_bytes() == (CHECKOUT / "config.toml").read_bytes()
    assert {path.name for path in Path(themes).iterdir()} == {path.name for path in (CHECKOUT / "themes").iterdir()}


@pytest.mark.parametrize("data", ["models/pocket/*.gguf", "models/pocket/*.txt", "tui/**/*.tcss"])
def test_a_wheel_carries_the_data_of_the_package(wheel: Path, data: str) -> None:
    inside = {path.relative_to(CHECKOUT) for path in (CHECKOUT / "quanttui").glob(data)}
    assert inside
    assert {path.relative_to(wheel) for path in (wheel / "quanttui").glob(data)} == inside
