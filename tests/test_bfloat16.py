"""The precision that is asked for, and the one that runs."""

from __future__ import annotations

import pytest
import torch

from fakes import FakeLoaded, coloured
from instancefcn import bfloat16
from instancefcn.errors import ConfigError
from instancefcn.inference.predictor import Predictor

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[True, False], ids=["native", "not native"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(bfloat16, "bfloat16_is_native", lambda kind: request.param)
    return bool(request.param)


def test_auto_is_bfloat16_on_a_cpu_that_has_it(native: bool) -> None:
    assert bfloat16.chosen_precision("auto", CPU) == ("bf16" if native else "32")
    assert bfloat16.chosen_precision("auto", CUDA) == "32"
    assert bfloat16.chosen_precision("32", CPU) == "32"


def test_bf16_is_refused_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "convolves_in_bfloat16", lambda: False)
    with pytest.raises(ConfigError, match="AVX-512"):
        bfloat16.chosen_precision("bf16", CPU)
    assert bfloat16.chosen_precision("bf16", CUDA) == "bf16"


@pytest.mark.parametrize("wrong", ["16", "bf16-mixed", ""])
def test_other_precisions_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=repr(wrong)):
        bfloat16.chosen_precision(wrong, CPU)


@pytest.mark.parametrize(("precision", "runs"), [("32", False), ("bf16", True)])
def test_convolutions_run_in_the_precision(
    monkeypatch: pytest.MonkeyPatch, precision: str, runs: bool
) -> None:
    monkeypatch.setattr(bfloat16, "convolves_in_bfloat16", lambda: True)
    loaded = FakeLoaded()
    seen: list[bool] = []
    loaded.network.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    predictor = Predictor(loaded, "cpu", precision)  # type: ignore[arg-type]
    found = predictor(coloured())
    assert seen == [runs]
    assert predictor.precision == precision
    assert ("bfloat16" in repr(predictor)) is runs
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
