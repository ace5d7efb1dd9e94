"""Checkpoints of Hugging Face's `transformers`: any Reformer there becomes a model here, and can be written back.

    model = mr.from_huggingface("reformer-enwik8")     # a folder with config.json and model.safetensors
    mr.to_huggingface(model, "mine")                   # writes a folder that `transformers` loads

Both libraries compute the same function. With the same weights and the same hash rotations, logits and gradients are
equal up to rounding. (Their rotations come from torch's generator, which `hash_seed` seeds; you can pass them as
`rotations=`.) The exceptions:

- the output at a position that `key_mask` hides is undefined;
- `lm_head.bias` is applied here and in their 4.x; their 5.x has `lm_head.decoder.bias` instead, or applies no bias;
- in float32, theirs is off by up to 0.4 % for a token that sees only itself in several rounds;
- if a window has more chunks than there are, only ours goes round the circle again;
- dropout draws different masks.

Older checkpoints hold a `pytorch_model.bin`. Reading one may run code, so we don't. With torch you can convert it:

    weights = torch.load("pytorch_model.bin", weights_only=True)
    safetensors.torch.save_file({name: value.clone() for name, value in weights.items()}, "model.safetensors")

Read next: `tools/gradcheck.py`.
"""

import json
import math
import os
import re
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from minireformer import backend
from minireformer.backend import Array
from minireformer.checkpoint import check_finite, write_arrays
from minireformer.checks import check_count, check_path, check_sizes, float_dtype
from minireformer.config import ReformerConfig
from minireformer.hashing import default_n_buckets
from minireformer.model import Body, Reformer

_FIELDS = {  # a field of their config: (ours, their default)
    "vocab_size": ("vocab_size", 320),
    "hidden_size": ("d_model", 256),
    "num_attention_heads": ("n_heads", 12),
    "attention_head_size": ("d_head", 64),
    "feed_forward_size": ("d_ff", 512),
    "attn_layers": ("attn_layers", ["local", "lsh"] * 3),
    "lsh_attn_chunk_length": ("lsh_chunk_len", 64),
    "local_attn_chunk_length": ("local_chunk_len", 64),
    "lsh_num_chunks_before": ("lsh_n_before", 1),
    "lsh_num_chunks_after": ("lsh_n_after", 0),
    "local_num_chunks_before": ("local_n_before", 1),
    "local_num_chunks_after": ("local_n_after", 0),
    "num_hashes": ("n_hashes", 1),
    "num_buckets": ("n_buckets", None),
    "axial_pos_embds": ("positions", True),
    "axial_pos_shape": ("axial_shape", [64, 64]),
    "axial_pos_embds_dim": ("axial_dims", [64, 192]),
    "max_position_embeddings": ("max_len", 4096),
    "is_decoder": ("causal", False),
    "hidden_dropout_prob": ("dropout", 0.05),
    "lsh_attention_probs_dropout_prob": ("lsh_attention_dropout", 0.0),
    "local_attention_probs_dropout_prob": ("local_attention_dropout", 0.05),
    "classifier_dropout": ("head_dropout", None),
    "chunk_size_feed_forward": ("ff_chunk_len", 0),
    "chunk_size_lm_head": ("loss_chunk_len", 0),
    "hidden_act": ("activation", "relu"),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
}
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_python": "gelu"} | dict.fromkeys(
    ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), "gelu_tanh"
)
_NAMES = [  # how our names begin, and how theirs do: the first pattern that matches wins
    (r"embedding\.", "reformer.embeddings.word_embeddings."),
    (r"positions\.weight$", "reformer.embeddings.position_embeddings.embedding.weight"),
    (r"positions\.", "reformer.embeddings.position_embeddings."),
    (r"(layers\.\d+\.attention\.)(query_key|query|key|value)\.", r"reformer.encoder.\1self_attention.\2."),
    (r"(layers\.\d+\.\w+\.)(dense|output)\.", r"reformer.encoder.\1\2.dense."),
    (r"(layers|layer_norm)\.", r"reformer.encoder.\1."),
]
_HEADS = {  # our head: how its names begin in theirs, and pairs as in _NAMES
    "tokens": ("lm_head.", [(r"head\.weight", "lm_head.decoder.weight"), (r"head\.bias", "lm_head.bias")]),
    "sequence": ("classifier.", [(r"head\.output\.", "classifier.out_proj."), (r"head\.", "classifier.")]),
    "span": ("qa_outputs.", [(r"head\.", "qa_outputs.")]),
}
_ARCHITECTURES = {"sequence": "ReformerForSequenceClassification", "span": "ReformerForQuestionAnswering"}
# Older files also hold buffers, and an array under two names.
_NOT_PARAMETERS = re.compile(r".*\.(self_)?mask_value_float(16|32)|lm_head\.decoder\.bias")


def from_huggingface(
    folder_or_state_dict: str | os.PathLike[str] | dict[str, Any],
    config: dict[str, Any] | None = None,
    dtype: Any = "float32",
) -> Reformer:
    """A `Reformer` with the weights and shape of one of Hugging Face's.

    folder_or_state_dict  a folder that holds `config.json` and `model.safetensors` (nothing is downloaded), or a dict
                          of arrays under their names: NumPy, CuPy, or anything that NumPy can convert, such as
                          torch's tensors on a CPU.
    config                their config as a dict. A dict of arrays needs it; with a folder, it replaces
                          `config.json`: `config | {"num_hashes": 8}` evaluates with more rounds.
    dtype                 "float32" or "float64", for the parameters here.

    The weights show which head the model has: language model (`is_decoder`) or masked language model, sequence
    classification or question answering (`heads.py`). Raises FileNotFoundError for a file that is missing, and
    ValueError or TypeError if a weight is missing, unknown, of another shape or not finite, or if the config asks for
    something that is not supported here: the message names it.
    """
    if isinstance(folder_or_state_dict, dict):
        weights = folder_or_state_dict
        if config is None:
            raise ValueError("config: expected a dict beside the weights; got None")
    elif isinstance(folder_or_state_dict, (str, os.PathLike)):
        folder = check_path("folder_or_state_dict", folder_or_state_dict)
        if config is None:
            config = _read(folder, "config.json", lambda path: json.loads(path.read_bytes()))
        weights = _read(folder, "model.safetensors", safetensors.numpy.load_file)
    else:
        name = type(folder_or_state_dict).__name__
        raise TypeError(f"folder_or_state_dict: expected a folder or a dict of arrays; got {name}")
    if not isinstance(config, dict):
        raise TypeError(f"config: expected a dict such as that in config.json; got {type(config).__name__}")
    for name in weights:
        if not isinstance(name, str):
            raise TypeError(f"folder_or_state_dict: expected the names of weights as text; got {name!r}")
    weights, dtype = dict(weights), float_dtype(dtype)
    if "lm_head.decoder.bias" in weights:
        weights["lm_head.bias"] = weights[
            "lm_head.decoder.bias"
        ]  # version 4: the same array; newer: the one that counts
    weights = {name: _as_array(name, weights[name], dtype) for name in weights if not _NOT_PARAMETERS.fullmatch(name)}
    check_finite(f"folder_or_state_dict: as {dtype},", weights)
    model = Reformer(_our_config(config, weights), dtype=dtype)
    names = {name: _their_name(name, model.config.head) for name in model.params}
    _check_weights(weights, {names[name]: param.shape for name, param in model.params.items()})
    model.load_params({name: backend.asarray(weights[theirs], model.dtype) for name, theirs in names.items()})
    return model


def to_huggingface(model: Reformer, folder: str | os.PathLike[str]) -> None:
    """Save the model as `transformers` loads it: `config.json` and `model.safetensors` in `folder`, new or not.

    The config names an architecture that fits the head, and chunk sizes of 0 for feed-forward layer and head. Chunking
    changes no results, but their code would refuse lengths that are not a multiple of the chunk size. Raises ValueError
    for a model with a feature that theirs lacks: full attention, sinusoidal positions, `same_bucket` or
    `count_once`, an axial grid that does not have two axes, or causal attention that looks at chunks ahead.
    """
    folder = check_path("folder", folder)
    if isinstance(model, Body) and not isinstance(model, Reformer):
        raise ValueError("model: expected one with a head; got the encoder of an EncoderDecoder")
    weights, config = state_dict(model), _their_config(model.config) | {"dtype": model.dtype.name}
    if "lm_head.bias" in weights:
        weights["lm_head.decoder.bias"] = weights["lm_head.bias"]  # the name that their newest version applies
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"folder: expected a folder, new or not; {str(folder)!r} is a file, or is inside one"
        ) from None
    write_arrays(folder / "model.safetensors", weights, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def state_dict(model: Reformer, values: dict[str, Array] | None = None) -> dict[str, Array]:
    """The parameters of `model` under Hugging Face's names; or `values`, a dict with our names, such as grads.

    The arrays are the same ones, not copies. Raises ValueError for a name that no parameter has.
    """
    if not isinstance(model, Reformer):
        raise TypeError(f"model: expected a Reformer; got {type(model).__name__}")
    values = model.params if values is None else values
    if not isinstance(values, dict):
        raise TypeError(f"values: expected a dict such as params; got {type(values).__name__}")
    if unknown := sorted(values.keys() - model.params.keys()):
        raise ValueError(f"values: expected names of parameters; got {unknown[:5]}")
    return {_their_name(name, model.config.head): value for name, value in values.items()}


def _their_name(name, head):
    pattern, theirs = next(pair for pair in _HEADS[head][1] + _NAMES if re.match(pair[0], name))
    return re.sub(f"^{pattern}", theirs, name)


def _read(folder, name, load):
    """What `load` reads from the file `name` in `folder`; the error names a file that is missing or broken."""
    path = folder / name
    if not path.is_file():
        hint = "expected a folder that holds config.json and model.safetensors; nothing is downloaded"
        if (folder / "pytorch_model.bin").is_file():
            hint = "help(minireformer.huggingface) shows how to make it from pytorch_model.bin"
        raise FileNotFoundError(f"{path}: no such file; {hint}")
    try:
        return load(path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON text ({error})") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or only a part of one ({error})") from error
    except (KeyError, TypeError) as error:  # NumPy has no type for it
        raise ValueError(f"{path}: expected floats of 16, 32 or 64 bits ({error})") from None


def _as_array(name, value, dtype):
    """`value` in host memory, as `dtype`: numbers that are too large for it become infinity."""
    try:
        array = backend.to_numpy(value)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{name}: expected an array; {error}") from None
    if array.dtype.kind != "f":
        raise TypeError(f"{name}: expected floats; got dtype {array.dtype}")
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def _check_weights(weights, shapes):
    """Raise unless `weights` has exactly the names and shapes of `shapes`."""
    if missing := sorted(shapes.keys() - weights.keys()):
        raise ValueError(f"folder_or_state_dict: these weights are missing: {', '.join(missing[:5])}")
    if unknown := sorted(weights.keys() - shapes.keys()):
        raise ValueError(f"folder_or_state_dict: the config has no place for {', '.join(unknown[:5])}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"{name}: the config expects shape {shape}; got {weights[name].shape}")


def _our_config(config, weights):
    """Their config, a dict, as a `ReformerConfig`; the weights show which head."""
    if config.get("model_type", "reformer") != "reformer":
        raise ValueError(f"config: expected model_type reformer; got {config['model_type']!r}")
    heads = [head for head, (start, _) in _HEADS.items() if any(name.startswith(start) for name in weights)]
    if not heads:
        starts = ", ".join(start for start, _ in _HEADS.values())
        raise ValueError(f"folder_or_state_dict: expected weights of a head, {starts}; found none")
    ours = {name: config.get(theirs, default) for theirs, (name, default) in _FIELDS.items()}
    activation, kinds = ours["activation"], ours["attn_layers"]
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise ValueError(f"config: expected hidden_act to be one of {', '.join(_ACTIVATIONS)}; got {activation!r}")
    if not isinstance(kinds, (list, tuple)) or any(kind not in ("lsh", "local") for kind in kinds):
        raise ValueError(f"config: expected attn_layers, a list of lsh and local; got {kinds!r}")
    ours["activation"] = _ACTIVATIONS[activation]
    ours["positions"] = "axial" if ours["positions"] else "learned"
    used = {"axial_": ours["positions"] == "axial", "lsh_": "lsh" in kinds, "local_": "local" in kinds}
    for name in ("ff_chunk_len", "loss_chunk_len"):
        used[name] = ours[name]  # their default, 0, means no chunks; here that would only cost memory
    unused = tuple(start for start, is_used in used.items() if not is_used)
    ours = {name: value for name, value in ours.items() if not name.startswith(unused)}
    if heads[0] == "sequence" and "classifier.out_proj.weight" in weights:
        ours["n_labels"] = len(weights["classifier.out_proj.weight"])
    try:
        if ours["positions"] == "axial":
            _fit_grid(ours)
        return ReformerConfig(head=heads[0], **ours)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: {error}") from None


def _fit_grid(ours):
    """Lower max_len to what the axial grid holds: theirs may promise more, but refuses such a sequence."""
    grid = math.prod(check_sizes("axial_shape", ours["axial_shape"]))
    check_count("max_len", ours["max_len"])
    if ours["max_len"] > grid and ours["n_buckets"] is None and "lsh" in ours["attn_layers"]:
        sizes = ((grid, ours["lsh_chunk_len"], max_len) for max_len in (grid, ours["max_len"]))
        if len({str(default_n_buckets(*size)) for size in sizes}) > 1:
            raise ValueError(
                f"expected num_buckets, because the default for max_position_embeddings {ours['max_len']} differs "
                f"from that for the {grid} places of axial_pos_shape; got None"
            )
    ours["max_len"] = min(grid, ours["max_len"])


def _their_config(config):
    """A `ReformerConfig` as their config, a dict. ValueError names a field whose value they don't support."""
    is_decoder = config.causal and config.head == "tokens"
    unsupported = {
        "attn_layers": set(config.attn_layers) - {"lsh", "local"},
        "positions": config.positions == "sinusoidal",
        "axial_shape": config.positions == "axial" and len(config.axial_shape) != 2,
        "same_bucket": config.same_bucket,
        "count_once": config.count_once,
        "lsh_n_after": is_decoder and config.lsh_n_after,
        "local_n_after": is_decoder and config.local_n_after,
    }
    for name, is_set in unsupported.items():
        if is_set:
            raise ValueError(f"model: Hugging Face's Reformer does not support {name}={getattr(config, name)!r}")
    theirs = {theirs: getattr(config, ours) for theirs, (ours, _) in _FIELDS.items()}
    for name in ("lsh_attention_probs_dropout_prob", "local_attention_probs_dropout_prob"):
        if theirs[name] is None:
            theirs[name] = config.attention_dropout
    theirs["axial_pos_embds"] = config.positions == "axial"
    theirs["hidden_act"] = next(name for name, ours in _ACTIVATIONS.items() if ours == config.activation)
    theirs |= {"chunk_size_feed_forward": 0, "chunk_size_lm_head": 0}  # see `to_huggingface`
    if config.positions == "learned":
        del theirs["axial_pos_shape"], theirs["axial_pos_embds_dim"]
    if config.head == "sequence":
        labels = [f"LABEL_{i}" for i in range(config.n_labels)]
        theirs |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    language_model = "ReformerModelWithLMHead" if config.causal else "ReformerForMaskedLM"
    return {"architectures": [_ARCHITECTURES.get(config.head, language_model)], "model_type": "reformer", **theirs}
