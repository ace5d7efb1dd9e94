"""Models of Hugging Face's, with their numbers, and what tests make of them."""

import json

import safetensors.numpy

import minireformer as mr
from cases import FIXTURES, load_cases

CASES = load_cases(FIXTURES / "huggingface.safetensors")


def weights_of(case):
    return {name.removeprefix("weights/"): value for name, value in case.items() if name.startswith("weights/")}


def folder_of(case, path):
    safetensors.numpy.save_file(weights_of(case), path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(case["config"]), encoding="utf-8")
    return path


def model_of(name, **changes):
    return mr.from_huggingface(weights_of(CASES[name]), CASES[name]["config"] | changes, "float64")
