"""A model or a training run in one safetensors file: arrays and a line of JSON, nothing that runs when you read it.

A file holds the arrays `params.<name>` and, if training wrote it, `optimizer.<name>`. Its metadata is one JSON text
with the model's config and dtype, and whatever else training has to remember. You can load a model from both kinds of
file. A file is written under a temporary name and then renamed, so a run that is killed half-way leaves the previous
one intact. Reading raises ValueError, naming the path, if a file is truncated, not ours, saved from another config, or
holds infinity or NaN. Read next: `training/data.py`.
"""

import dataclasses
import json
import os
import shutil

import numpy as np
import safetensors
import safetensors.numpy

from minireformer import backend
from minireformer.checks import check_path, expect
from minireformer.layer import prefixed

_FORMAT = "minireformer 1"


def save_model(model, path, opt=None, progress=None):
    """Write the parameters and config of `model`, the state of the optimizer `opt`, and `progress` (JSON data).

    The file at `path` is replaced in one step, after the new one has reached the disk. Before anything is written, a
    ValueError names an array that holds NaN or infinity, or a `path` that is a folder or in one that doesn't exist.
    """
    path = _file_path(path)
    expect("path", str(path), path.parent.is_dir(), "a file in a folder that exists")
    arrays = prefixed("params", model.params) | prefixed("optimizer", opt.state if opt else {})
    dtype = np.dtype(model.dtype).name
    about = {"format": _FORMAT, "config": _config(model), "dtype": dtype, "progress": progress}
    # One metadata entry, not several: safetensors writes them in no fixed order.
    write_arrays(path, arrays, {"minireformer": json.dumps(about)})


def write_arrays(path, arrays, metadata):
    """Write `arrays` (either backend) and `metadata` (strings) to a safetensors file at a `Path`, like `save_model`."""
    arrays = {name: np.asarray(backend.to_numpy(array), order="C") for name, array in arrays.items()}
    check_finite(f"{path}: not written, because", arrays)
    folder = path.with_name(path.name + ".part")  # if a killed run leaves anything in it, the next save clears it away
    temporary = folder / path.name
    try:
        folder.mkdir(exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # the user's default for new files; safetensors makes them private
        safetensors.numpy.save_file(arrays, temporary, metadata=metadata)
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # else a power cut could keep the new name and lose the bytes
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def load_model(model_class, config_class, path):
    """Load the model in the file at `path`: a `model_class` with a `config_class`."""
    about, arrays = _read(path, "params.")
    try:
        model = model_class(config_class(**about["config"]), dtype=about["dtype"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: its config is not a {config_class.__name__}: {error}") from error
    _copy(path, arrays, prefixed("params", model.params))
    return model


def resume(model, opt, path, check=lambda progress: None):
    """Put the file's parameters into `model` and its optimizer state into `opt`; -> the saved `progress`.

    Nothing changes unless everything in the file fits and `check(progress)` raises nothing. Raises ValueError, naming
    the path, if the file holds no training run.
    """
    about, arrays = _read(path, "")
    if about.get("progress") is None:
        raise ValueError(f"{path}: holds a model, but no training run to resume")
    old, new = about["config"], _config(model)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if names:
        differ = "; ".join(f"{name} {old.get(name)!r}, here {new.get(name)!r}" for name in names)
        raise ValueError(f"{path}: saved from a model with another config: {differ}")
    check(about["progress"])
    _copy(path, arrays, prefixed("params", model.params) | prefixed("optimizer", opt.state))
    return about["progress"]


def check_finite(where, arrays):
    """Raise ValueError, with a message that begins with `where`, if one of `arrays` (a dict) holds NaN or infinity."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not backend.get_xp(array).isfinite(array).all():
            raise ValueError(f"{where} {name} holds NaN or infinity")


def _config(model):
    """The model's config as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(model.config)))


def _file_path(path):
    """`path` as a `Path`; ValueError if it is a folder, as "" is."""
    path, given = check_path("path", path), str(path)
    if path.is_dir():
        raise ValueError(f"path: expected a file; got the folder {given!r}")
    return path


def _read(path, prefix):
    """-> (the metadata, the arrays whose names begin with `prefix`), all checked except for their shapes."""
    path = _file_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: {path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("minireformer", "null"))
            if not isinstance(about, dict) or about.get("format") != _FORMAT:
                raise ValueError(f"{path}: a safetensors file, but not one that minireformer wrote")
            complete = isinstance(about.get("config"), dict) and isinstance(about.get("dtype"), str)
            expect(path, sorted(about), complete, "a config and a dtype in its metadata")
            arrays = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or only a part of one ({error})") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata is not JSON ({error})") from None
    check_finite(f"{path}:", arrays)
    return about, arrays


def _copy(path, arrays, targets):
    """Copy `arrays` into `targets`, a dict with the same names and shapes, once all of them are known to fit."""
    missing, unknown = sorted(targets.keys() - arrays.keys()), sorted(arrays.keys() - targets.keys())
    if missing or unknown:
        raise ValueError(f"{path}: missing {missing[:5]}, unknown {unknown[:5]}")
    for name, target in targets.items():
        found, expected = (arrays[name].shape, arrays[name].dtype), (target.shape, target.dtype)
        expect(path, found, found == expected, f"{name} with shape and dtype {expected}")
    for name, target in targets.items():
        target[...] = backend.get_xp(target).asarray(arrays[name])
