"""Checkpoints of Hugging Face's `transformers`: any Reformer of theirs becomes a model here, and back.

    model = mr.from_huggingface("reformer-enwik8")     a folder with config.json and model.safetensors
    mr.to_huggingface(model, "mine")                   which `transformers` loads

Both sides compute the same function, so the same weights give the same logits and gradients, to rounding, where the
same rotations hash them: theirs come from torch's generator (`hash_seed` seeds it), and can be passed as `rotations=`.
The exceptions: what comes out at a position that `key_mask` hides, which is nobody's business; `lm_head.bias`, which
their 5.x loads and does not apply, while here and in their 4.x it counts; in float32, a token that sees nothing but
itself in several rounds, where theirs is off by up to 0.4 %; windows of more chunks back than there are chunks, which
theirs does not wind round the circle again; the masks that dropout draws.

Older checkpoints hold a `pytorch_model.bin`, which may run code when it is read and is not read here. With torch,

    weights = torch.load("pytorch_model.bin", weights_only=True)
    safetensors.torch.save_file({name: value.clone() for name, value in weights.items()}, "model.safetensors")

makes the file out of it. Read next: `gradcheck.py`.
"""

import json
import math
import os
import re

import numpy as np
import safetensors
import safetensors.numpy

from minireformer import backend
from minireformer.checkpoint import check_finite, write_arrays
from minireformer.checks import check_count, check_path, float_dtype
from minireformer.config import ReformerConfig
from minireformer.hashing import default_n_buckets
from minireformer.model import Body, Reformer
from minireformer.positions import check_sizes

_FIELDS = {  # of their config: the same of ours, and their default
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
_ARCHITECTURES = {"sequence": "ReformerForSequenceClassification", "span": "ReformerForQuestionAnswering"}
_HEADS = {"lm_head.": "tokens", "classifier.": "sequence", "qa_outputs.": "span"}
_NAMES = [  # beginnings of our names, and of theirs: the first that fits counts
    (r"embedding\.", "reformer.embeddings.word_embeddings."),
    (r"positions\.weight$", "reformer.embeddings.position_embeddings.embedding.weight"),
    (r"positions\.", "reformer.embeddings.position_embeddings."),
    (
        r"layers\.(\d+)\.attention\.(query_key|query|key|value)\.",
        r"reformer.encoder.layers.\1.attention.self_attention.\2.",
    ),
    (r"layers\.(\d+)\.feed_forward\.dense\.", r"reformer.encoder.layers.\1.feed_forward.dense.dense."),
    (r"layers\.(\d+)\.(attention|feed_forward)\.output\.", r"reformer.encoder.layers.\1.\2.output.dense."),
    (r"layers\.", "reformer.encoder.layers."),
    (r"layer_norm\.", "reformer.encoder.layer_norm."),
]
_HEAD_NAMES = {
    "tokens": [(r"head\.weight", "lm_head.decoder.weight"), (r"head\.bias", "lm_head.bias")],
    "sequence": [(r"head\.output\.", "classifier.out_proj."), (r"head\.", "classifier.")],
    "span": [(r"head\.", "qa_outputs.")],
}
# What older files hold besides: buffers, and the second name of an array.
_NOT_PARAMETERS = re.compile(r".*\.(self_)?mask_value_float(16|32)|lm_head\.decoder\.bias")


def from_huggingface(folder_or_state_dict, config=None, dtype="float32"):
    """A `Reformer` with the weights and shape of one of Hugging Face's.

    folder_or_state_dict  a folder with `config.json` and `model.safetensors`, or a dict of arrays under their names
                          (NumPy, CuPy, or anything that NumPy takes for an array, such as torch's tensors on a CPU).
    config                their config as a dict: needed beside a dict of arrays, and in place of `config.json`
                          where it is given: `config | {"num_hashes": 8}` evaluates with more rounds.
    dtype                 "float32" or "float64", of the parameters here.

    The weights say which head it is: language model (`is_decoder`) or masked language model, sequence classification
    or question answering (`heads.py`). Raises ValueError or TypeError where a weight is missing, unknown, of another
    shape or not finite, or where the config asks for what is not here: the message names it.
    """
    if isinstance(folder_or_state_dict, dict):
        weights = folder_or_state_dict
        if config is None:
            raise ValueError("config: expected a dict beside the weights; got None")
    elif isinstance(folder_or_state_dict, (str, os.PathLike)):
        folder = check_path("folder_or_state_dict", folder_or_state_dict)
        config = _read_config(folder / "config.json") if config is None else config
        weights = _read_weights(folder)
    else:
        name = type(folder_or_state_dict).__name__
        raise TypeError(f"folder_or_state_dict: expected a folder or a dict of arrays; got {name}")
    if not isinstance(config, dict):
        raise TypeError(f"config: expected a dict, such as config.json holds; got {type(config).__name__}")
    if odd := [name for name in weights if not isinstance(name, str)]:
        raise TypeError(f"folder_or_state_dict: expected names of weights, which are texts; got {odd[0]!r}")
    weights, dtype = dict(weights), float_dtype(dtype)
    if "lm_head.decoder.bias" in weights:
        weights.setdefault("lm_head.bias", weights["lm_head.decoder.bias"])  # two names of one array
    weights = {name: _as_array(name, weights[name], dtype) for name in weights if not _NOT_PARAMETERS.fullmatch(name)}
    check_finite(f"folder_or_state_dict: as {dtype},", weights)
    model = Reformer(_our_config(config, weights), dtype=dtype)
    names = {name: _their_name(name, model.config.head) for name in model.params}
    _check_weights(weights, {names[name]: param.shape for name, param in model.params.items()})
    model.load_params({name: backend.asarray(weights[theirs], model.dtype) for name, theirs in names.items()})
    return model


def to_huggingface(model, folder):
    """Write `config.json` and `model.safetensors` into `folder`, made if need be, for `transformers` to load.

    Written there: an architecture that fits the head, and chunk sizes of 0 for feed-forward layer and head, which
    change no number; theirs would refuse lengths that are not a multiple of them. Raises ValueError for a model with
    something that a Reformer of theirs cannot have: full attention, sinusoidal positions, `same_bucket` or
    `count_once`, an axial grid of other than two axes, or causal attention that looks at chunks ahead.
    """
    folder = check_path("folder", folder)
    if isinstance(model, Body) and not isinstance(model, Reformer):
        raise ValueError("model: expected one with a head; got the encoder of an EncoderDecoder")
    if not isinstance(model, Reformer):
        raise TypeError(f"model: expected a Reformer; got {type(model).__name__}")
    config = _their_config(model.config) | {"dtype": model.dtype.name}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"folder: expected a folder, there or not; {str(folder)!r} is, or lies in, a file") from None
    write_arrays(folder / "model.safetensors", state_dict(model), {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def state_dict(model, values=None):
    """The parameters of `model` under Hugging Face's names; or `values`, a dict by names of parameters, such as grads.

    The arrays are those given, not copies. Raises ValueError for a name that no parameter has.
    """
    if not isinstance(model, Reformer):
        raise TypeError(f"model: expected a Reformer; got {type(model).__name__}")
    if values is not None and not isinstance(values, dict):
        raise TypeError(f"values: expected a dict such as params; got {type(values).__name__}")
    values = model.params if values is None else values
    if unknown := sorted(values.keys() - model.params.keys()):
        raise ValueError(f"values: expected names of parameters; got {unknown[:5]}")
    return {_their_name(name, model.config.head): value for name, value in values.items()}


def _their_name(name, head):
    pattern, theirs = next(pair for pair in _HEAD_NAMES[head] + _NAMES if re.match(pair[0], name))
    return re.sub(f"^{pattern}", theirs, name)


def _read_config(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON text ({error})") from None


def _read_weights(folder):
    path = folder / "model.safetensors"
    if not path.is_file():
        hint = "; minireformer.huggingface says how to make it from pytorch_model.bin"
        raise FileNotFoundError(f"{path}: no such file{hint * (folder / 'pytorch_model.bin').is_file()}")
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or only a part of one ({error})") from error
    except (KeyError, TypeError) as error:  # what NumPy has no type for
        raise ValueError(f"{path}: expected floats of 16, 32 or 64 bits ({error})") from None


def _as_array(name, value, dtype):
    """`value` in host memory, as `dtype`: what is too large for it becomes infinity."""
    try:
        array = backend.to_numpy(value)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"{name}: expected an array; {error}") from None
    if array.dtype.kind != "f":
        raise TypeError(f"{name}: expected floats; got dtype {array.dtype}")
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def _check_weights(weights, shapes):
    """Raise unless `weights` are just those of `shapes`."""
    if missing := sorted(shapes.keys() - weights.keys()):
        raise ValueError(f"folder_or_state_dict: expected weights that are missing: {', '.join(missing[:5])}")
    if unknown := sorted(weights.keys() - shapes.keys()):
        raise ValueError(f"folder_or_state_dict: the config has no place for {', '.join(unknown[:5])}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"{name}: the config expects shape {shape}; got {weights[name].shape}")


def _our_config(config, weights):
    """Their config, a dict, as a `ReformerConfig`; the weights say which head."""
    if config.get("model_type", "reformer") != "reformer":
        raise ValueError(f"config: expected model_type reformer; got {config['model_type']!r}")
    head = next((head for start, head in _HEADS.items() if any(name.startswith(start) for name in weights)), None)
    if head is None:
        raise ValueError(f"folder_or_state_dict: expected weights of a head, {', '.join(_HEADS)}; found none")
    ours = {name: config.get(theirs, default) for theirs, (name, default) in _FIELDS.items()}
    activation, kinds = ours["activation"], ours["attn_layers"]
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise ValueError(f"config: expected hidden_act to be one of {', '.join(_ACTIVATIONS)}; got {activation!r}")
    if not isinstance(kinds, (list, tuple)) or any(kind not in ("lsh", "local") for kind in kinds):
        raise ValueError(f"config: expected attn_layers, a list of lsh and local; got {kinds!r}")
    ours["activation"] = _ACTIVATIONS[activation]
    ours["positions"] = "axial" if ours["positions"] else "learned"
    for name in ("ff_chunk_len", "loss_chunk_len"):
        if not ours[name]:  # there, not to cut into chunks is the default; here it would only cost memory
            del ours[name]
    for kind in {"lsh", "local"} - set(kinds):  # what is said of layers that are not there
        ours = {name: value for name, value in ours.items() if not name.startswith(f"{kind}_")}
    if head == "sequence" and "classifier.out_proj.weight" in weights:
        ours["n_labels"] = len(weights["classifier.out_proj.weight"])
    try:
        if ours["positions"] == "axial":
            _fit_grid(ours)
        else:
            del ours["axial_shape"], ours["axial_dims"]
        return ReformerConfig(head=head, **ours)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: {error}") from None


def _fit_grid(ours):
    """Lower max_len to what the axial grid holds: theirs may say more, and refuses it when it comes."""
    grid = math.prod(check_sizes("axial_shape", ours["axial_shape"]))
    check_count("max_len", ours["max_len"])
    if ours["max_len"] > grid and ours["n_buckets"] is None and "lsh" in ours["attn_layers"]:
        sizes = ((grid, ours["lsh_chunk_len"], max_len) for max_len in (grid, ours["max_len"]))
        if len({str(default_n_buckets(*size)) for size in sizes}) > 1:
            raise ValueError(
                f"expected num_buckets, as their default for max_position_embeddings {ours['max_len']} is "
                f"another than for the {grid} of axial_pos_shape; got None"
            )
    ours["max_len"] = min(grid, ours["max_len"])


def _their_config(config):
    """A `ReformerConfig` as their config, a dict. ValueError names what they have nothing for."""
    refused = {
        "attn_layers": set(config.attn_layers) - {"lsh", "local"},
        "positions": config.positions == "sinusoidal",
        "axial_shape": config.positions == "axial" and len(config.axial_shape) != 2,
        "same_bucket": config.same_bucket,
        "count_once": config.count_once,
        "lsh_n_after": config.causal and config.head == "tokens" and config.lsh_n_after,
        "local_n_after": config.causal and config.head == "tokens" and config.local_n_after,
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise ValueError(f"model: Hugging Face's Reformer has nothing for {name}={getattr(config, name)!r}")
    ours = {name: getattr(config, name) for name, _ in _FIELDS.values()}
    for kind in ("lsh", "local"):
        if ours[f"{kind}_attention_dropout"] is None:
            ours[f"{kind}_attention_dropout"] = config.attention_dropout
    theirs_of = {ours_: theirs for theirs, ours_ in reversed(_ACTIVATIONS.items())}
    ours |= {"positions": config.positions == "axial", "activation": theirs_of[config.activation]}
    ours |= {"ff_chunk_len": 0, "loss_chunk_len": 0}
    theirs = {name: ours[our_name] for name, (our_name, _) in _FIELDS.items()}
    if config.positions == "learned":
        del theirs["axial_pos_shape"], theirs["axial_pos_embds_dim"]
    if config.head == "sequence":
        labels = [f"LABEL_{i}" for i in range(config.n_labels)]
        theirs |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    causal = "ReformerModelWithLMHead" if config.causal else "ReformerForMaskedLM"
    architecture = _ARCHITECTURES.get(config.head, causal)
    return {"architectures": [architecture], "model_type": "reformer", **theirs}
