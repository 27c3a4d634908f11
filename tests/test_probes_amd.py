"""AMD's cards: files of sysfs, as amdgpu writes them and as it does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui.events import READINGS
from quanttui.probes import Absent, amd

GIB = 1 << 30

CARD = {
    "vendor": "0x1002\n",
    "device": "0x744c\n",
    "gpu_busy_percent": "93\n",
    "mem_info_vram_total": f"{24 * GIB}\n",
    "mem_info_vram_used": f"{9 * GIB}\n",
    "mem_info_gtt_used": f"{GIB}\n",
    "hwmon/hwmon3/name": "amdgpu\n",
    "hwmon/hwmon3/power1_average": "285000000\n",
    "hwmon/hwmon3/temp1_input": "67000\n",
    "hwmon/hwmon3/freq1_input": "2482000000\n",
}
"""A Radeon RX 7900 XTX as the kernel's documentation has its files. It counts no energy."""

Card = Callable[..., Path]


@pytest.fixture
def plant(tmp_path: Path) -> Card:
    """Write a card's files, and return the root that it lies under."""

    def write(name: str = "card0", files: dict[str, str] | None = None, **changed: str) -> Path:
        for file, text in ({**CARD, **changed} if files is None else files).items():
            path = tmp_path / "sys/class/drm" / name / "device" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def only(root: Path, first: int = 0) -> amd.Card:
    (found,) = amd.probes(root, first)
    assert isinstance(found, amd.Card)
    return found


def test_every_reading_in_its_unit(plant: Card) -> None:
    probe = only(plant())
    probe.open()
    assert probe.read() == {
        "gpu0.util": 93, "gpu0.mem_total": 24 * GIB, "gpu0.mem_used": 9 * GIB, "gpu0.shared_used": GIB,
        "gpu0.power": 285, "gpu0.temperature": 67, "gpu0.clock": 2482,
    }  # fmt: skip


def test_every_reading_has_a_meaning() -> None:
    assert {f"gpuN.{source.name}" for source in amd.SOURCES} <= set(READINGS)


def test_cards_are_numbered_after_nvidia_s_devices_and_outputs_and_other_vendors_are_none(plant: Card) -> None:
    plant("card0", {"vendor": "0x10de\n"})
    plant("card1")
    plant("card1-DP-1", {"vendor": "0x1002\n"})
    root = plant("card2")
    assert [probe.name for probe in amd.probes(root, 1)] == ["gpu1", "gpu2"]


def test_a_host_without_cards_has_no_probe(tmp_path: Path) -> None:
    assert amd.probes(tmp_path) == []


def test_without_an_energy_counter_there_is_no_energy_and_it_says_so(plant: Card) -> None:
    probe = only(plant())
    assert probe.open() == "AMD GPU 744c, which has no energy counter, and joules are not made of watts"
    assert "gpu0.energy" not in probe.read()


def test_an_energy_counter_is_in_joules(plant: Card) -> None:
    probe = only(plant(**{"hwmon/hwmon3/energy1_input": "123456789\n", "product_name": "AMD Instinct MI300X\n"}))
    assert probe.open() == "AMD Instinct MI300X"
    assert probe.read()["gpu0.energy"] == 123.456789


def test_an_energy_counter_that_ran_backwards_is_left_out_until_it_is_where_it_was(plant: Card) -> None:
    file = "hwmon/hwmon3/energy1_input"
    probe = only(plant(**{file: "5000000\n"}))
    probe.open()
    told = []
    for microjoules in ("5000000", "7000000", "1000000", "6999999", "7000000", "8000000"):
        plant(**{file: microjoules})
        told.append(probe.read().get("gpu0.energy"))
    assert told == [5, 7, None, None, 7, 8]


def test_power_of_the_moment_is_taken_where_there_is_no_average(plant: Card) -> None:
    root = plant(**{"hwmon/hwmon3/power1_input": "12000000\n"})
    (root / "sys/class/drm/card0/device/hwmon/hwmon3/power1_average").unlink()
    probe = only(root)
    probe.open()
    assert probe.read()["gpu0.power"] == 12


def test_files_that_a_card_lacks_are_left_out_and_named(plant: Card) -> None:
    probe = only(plant(files={"vendor": "0x1002\n", "device": "0x15bf\n", "mem_info_vram_total": "536870912\n"}))
    detail = probe.open()
    assert "does not tell util, mem_used, shared_used, power, temperature, clock" in detail
    assert probe.read() == {"gpu0.mem_total": 1 << 29}


def test_another_driver_tells_nothing_and_is_absent(plant: Card) -> None:
    with pytest.raises(Absent, match="another driver"):
        only(plant(files={"vendor": "0x1002\n"})).open()


@pytest.mark.parametrize("text", ["", "-5\n", "65535\n", "101\n", "n/a\n", "9" * 40])
def test_a_utilization_that_makes_no_sense_is_left_out_alone(plant: Card, text: str) -> None:
    probe = only(plant(gpu_busy_percent=text))
    probe.open()
    now = probe.read()
    assert "gpu0.util" not in now and "gpu0.power" in now


def test_a_card_that_vanishes_is_absent_and_found_again_when_it_is_back(plant: Card) -> None:
    root = plant()
    probe = only(root)
    probe.open()
    shutil.rmtree(root / "sys/class/drm/card0")
    with pytest.raises(Absent, match="vanished"):
        probe.read()
    probe.close()
    plant()
    probe.open()
    assert probe.read()["gpu0.util"] == 93


def test_sensors_that_cannot_be_read_take_only_their_own_readings_away(plant: Card) -> None:
    root = plant()
    probe = only(root)
    probe.open()
    shutil.rmtree(root / "sys/class/drm/card0/device/hwmon")
    assert set(probe.read()) == {"gpu0.util", "gpu0.mem_total", "gpu0.mem_used", "gpu0.shared_used"}


def test_names_come_without_control_characters(plant: Card) -> None:
    assert "\x1b" not in only(plant(product_name="Evil\x1b[2J card\n")).open()


@given(st.binary(max_size=40), st.sampled_from(amd.SOURCES))
def test_no_text_is_more_than_a_number_or_nothing(text: bytes, source: amd.Source) -> None:
    found = amd.value(text, source)
    assert found is None or 0 <= found <= source.most
