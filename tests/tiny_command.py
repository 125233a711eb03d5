"""`instancefcn` with the tiny models among the named ones, for tests that start processes of their own."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from instancefcn.models import zoo
from tiny import tiny_proposals, tiny_spec

torch.set_num_threads(1)
SETTINGS = {
    "pretrained": False,
    "precision": "32",
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "warmup": 2,
    "workers": 0,
    "accelerator": "cpu",
    "sheets_every": 0,
    "evaluate_every": 0,
    "log_every": 1,
    "short_side": 96,
    "long_side": 128,
    "train_short": (64, 96),
    "train_long": 128,
}
zoo.SPECS["tiny"] = replace(tiny_spec(), training=SETTINGS)
zoo.SPECS["tiny_ohem"] = replace(
    tiny_spec(), name="tiny_ohem", sampling=replace(tiny_spec().sampling, method="ohem"), training=SETTINGS
)
zoo.SPECS["tiny_proposals"] = replace(tiny_proposals(), name="tiny_proposals", training=SETTINGS)

if __name__ == "__main__":
    from instancefcn.cli.main import app

    warnings.simplefilter("ignore")
    app()
