"""What the explorables must compute: functions in JavaScript, and the same numbers from NumPy or the package.

`tests/test_explorables.py` asks Node, and `tests/browser/test_explorables.py` asks the browser that shows them.
"""

import ast
import base64
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

import minireformer as mr
from minireformer.course import cast, explore, plots

FOLDER = Path(__file__).parents[1] / "notebooks"
SPELL = "(key, x) => typeof x === 'number' && !Number.isFinite(x) ? String(x) : ArrayBuffer.isView(x) ? [...x] : x"


@dataclasses.dataclass(frozen=True)
class Case:
    """`compute` is a function (m, data) => numbers in JavaScript, where `m` is what the module exports."""

    name: str
    module: str
    compute: str
    data: Any
    expected: Callable[[], Any]

    @property
    def script(self):
        """An expression in JavaScript: the numbers as JSON, with NaN and infinities as strings."""
        call = f"({self.compute})(modules['{self.module}.js'], {json.dumps(self.data)})"
        return f"(() => {{\n{explore.definitions(self.module)}return JSON.stringify({call}, {SPELL});\n}})()"

    def difference(self, answer):
        """The largest difference, relative to numbers above 1. Infinite unless shapes and overflows agree."""
        found, expected = (np.asarray(numbers, float) for numbers in (json.loads(answer), self.expected()))
        finite = np.isfinite(expected)
        if found.shape != expected.shape or not np.array_equal(np.isfinite(found), finite):
            return math.inf
        found, expected = found[finite], expected[finite]
        return float((abs(found - expected) / np.maximum(1, abs(expected))).max(initial=0))


def hash_cases():
    angles = np.radians([0, 1, 5, 20, 38, 60, 90, 120, 150, 175, 180])
    circle = np.radians(np.arange(0.1, 360, 0.5))
    points = np.stack([np.cos(circle), np.sin(circle)], axis=-1)
    for n in (2, 4, 8, 16):
        for n_rounds in (1, 3, 8):
            yield Case(
                f"chance to meet, {n} buckets, {n_rounds} rounds",
                "hash_maths",
                "(m, [angles, n, rounds]) => angles.map((angle) => m.collisionProbability(angle, n, rounds))",
                [angles.tolist(), n, n_rounds],
                lambda n=n, n_rounds=n_rounds: mr.collision_probability(angles, n, n_rounds),
            )
        columns = np.random.default_rng(n).standard_normal((2, n // 2))
        hashed = mr.hash_vectors(points[None, None], columns[None, :, None])[0, 0, 0]
        yield Case(
            f"buckets, {n}",
            "hash_maths",
            "(m, [angles, directions]) => angles.map((angle) => m.bucketOf(m.unit(angle), directions))",
            [circle.tolist(), columns.T.tolist()],
            lambda hashed=hashed: hashed,
        )
        yield Case(
            f"sectors, {n}",
            "hash_maths",
            """(m, [angles, directions]) => {
                const turns = [-2 * Math.PI, 0, 2 * Math.PI];
                const covers = (s, x) => turns.some((turn) => s.start <= x + turn && x + turn < s.end);
                return angles.map((x) => m.sectors(directions).filter((s) => covers(s, x)).map((s) => s.bucket));
            }""",
            [circle.tolist()[::5], columns.T.tolist()],
            lambda hashed=hashed: hashed[::5, None],  # exactly one sector covers each direction
        )
        yield Case(
            f"counted within four standard deviations of the theory, {n} buckets",
            "hash_maths",
            """(m, [pairs, n, trials]) => pairs.map(([angle, rounds, p]) => {
                const met = m.countMeetings(m.uniforms(7), 1, 1 + angle, n, rounds, trials) / trials;
                return Math.abs(met - p) < 4 * Math.sqrt((p * (1 - p)) / trials);
            })""",
            [[[a, r, mr.collision_probability(a, n, r)] for a, r in ((0.3, 1), (0.9, 3), (2.0, 8))], n, 20_000],
            lambda: [True] * 3,
        )


def memory_cases():
    values = [[64, 200, 4096, 2**16, 2**20, 2**20 + 64], [1, 3], [128, 1024], [2, 12], [1, 4]]
    names = ("length", "batch", "dModel", "nLayers", "nRounds")
    sizes = [dict(zip(names, row)) for row in np.stack(np.meshgrid(*values), axis=-1).reshape(-1, 5).tolist()]

    def config(s, lsh=False, reversible=False):
        return mr.ReformerConfig(
            d_model=s["dModel"],
            n_heads=8,
            d_head=s["dModel"] // 8,
            d_ff=4 * s["dModel"],
            attn_layers=("lsh" if lsh else "full",) * s["nLayers"],
            n_hashes=s["nRounds"],
            axial_shape=(2048, 2048),
            max_len=2**22,
            reversible=reversible,
        )

    designs = ({}, {"lsh": True}, {"lsh": True, "reversible": True})
    for design in designs:
        yield Case(
            f"memory.predict, {', '.join(design) or 'full attention'}",
            "memory_maths",
            "(m, [sizes, design]) => sizes.map((s) => Object.values(m.predict(s, design)))",
            [sizes, design],
            lambda design=design: [mr.memory.predict(config(s, **design), s["batch"], s["length"]) for s in sizes],
        )

    for design, chunks in (*((design, False) for design in designs), (designs[-1], True)):

        def parts(design=design, chunks=chunks):
            training_parts = from_notebook("00_the_memory_wall", "def training_parts(", big=None)["training_parts"]
            chunk_len = 1024 if chunks else None
            return [
                list(
                    training_parts(
                        s["length"], **design, chunk_len=chunk_len, batch=s["batch"], config=config(s)
                    ).values()
                )
                for s in sizes
            ]

        yield Case(
            f"the bill of notebook 00, {', '.join(design) or 'full attention'}{', chunks' * chunks}",
            "memory_maths",
            "(m, [sizes, design]) => sizes.map((s) => m.trainingParts(s, design).map(([, bytes]) => bytes))",
            [sizes, design | {"chunks": chunks}],
            parts,
        )


def from_notebook(name, text, **names):
    """The functions of the one cell of a notebook that has this text."""
    cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    (source,) = [cell.source for cell in cells if cell.cell_type == "code" and text in cell.source]
    names |= {"mr": mr, "np": np, "dataclasses": dataclasses}
    functions = [statement for statement in ast.parse(source).body if isinstance(statement, ast.FunctionDef)]
    exec(compile(ast.Module(functions, []), name, "exec"), names)
    return names


def reversible_cases():
    numbers = [*np.random.default_rng(0).standard_normal(500) * 10.0 ** np.random.default_rng(1).integers(-9, 6, 500)]
    numbers += [0.0, 65519.9, 65520.0, -65520.0, 1e300, 2**-25, 2**-25 * 1.001, 3 * 2**-25, 1 + 2**-11, 1 + 3 * 2**-11]
    with np.errstate(over="ignore"):
        halves = np.array(numbers).astype(np.float16)
    yield Case("rounding to float16", "reversible_maths", "(m, x) => x.map(m.toHalf)", numbers, lambda: halves)

    for dtype in ("float16", "float32", "float64"):
        for settings in (
            {"norm": True},
            {"norm": False},
            {"norm": True, "dropout": True},
            {"norm": True, "dropout": True, "anotherSeed": True},
        ):
            yield Case(
                f"there and back in {dtype}, {', '.join(name for name in settings if settings[name])}",
                "reversible_maths",
                """(m, { dtype, depth, ...settings }) => {
                    const n = m.TOKENS * m.WIDTH, dy = [m.steps(2, n), m.steps(3, n)];
                    const all = { ...settings, round: m.ROUND[dtype] };
                    const found = m.thereAndBack(m.steps(1, n), dy, m.makeBlocks(depth), all);
                    return [found.kept, found.rebuilt, found.gradients];
                }""",
                {"dtype": dtype, "depth": 12, **settings},
                lambda dtype=dtype, settings=settings: there_and_back(dtype, 12, **settings),
            )


# A reversible stack in NumPy, with every operation in `dtype` and sums from left to right


def steps(seed, n):
    """Random numbers from -1 to 1 in steps of 1/512, by mulberry32."""
    numbers = []
    for _ in range(n):
        seed = seed + 0x6D2B79F5 & 0xFFFFFFFF
        word = (seed ^ seed >> 15) * (seed | 1) & 0xFFFFFFFF
        word ^= word + (word ^ word >> 7) * (word | 61) & 0xFFFFFFFF
        numbers.append(((word ^ word >> 14) >> 22) / 512 - 1)
    return np.array(numbers)


def add_up(x):
    """The sum over the last axis."""
    total = x[..., 0]
    for i in range(1, x.shape[-1]):
        total = total + x[..., i]
    return total


def branch(x, w, norm, keep):
    """F(x) and its backward pass, a function."""
    width = x.dtype.type(x.shape[-1])
    normed, scale = x, None
    if norm:
        centred = x - (add_up(x) / width)[:, None]
        scale = np.sqrt(add_up(centred * centred) / width)[:, None]
        normed = centred / scale
    z = add_up(normed[:, None, :] * w.T)  # (tokens, out, in)
    out = np.maximum(z, 0) * keep

    def backward(dout):
        dn = add_up((dout * keep * (z > 0))[:, None, :] * w)  # (tokens, in, out)
        if not norm:
            return dn
        mean, along = add_up(dn) / width, add_up(dn * normed) / width
        return ((dn - mean[:, None]) - normed * along[:, None]) / scale

    return out, backward


def there_and_back(dtype, depth, norm, dropout=False, anotherSeed=False):
    """What forward keeps, what backward rebuilds, and the gradients: (3, depth + 1, 2, 128)."""
    number = np.dtype(dtype).type

    def array(seed, rows=16):
        return steps(seed, 8 * rows).reshape(rows, 8).astype(dtype)

    def keep(seed, n, part):
        if not dropout:
            return number(1)
        return (array(seed + 2 * n + part) >= number(-0.75)) * (number(1) / number(0.875))

    weights = [[array(100 + 2 * n + part, 8) for part in (0, 1)] for n in range(depth)]
    with np.errstate(all="ignore"):
        kept = [(array(1),) * 2]
        for n, (f, g) in enumerate(weights):
            x1, x2 = kept[-1]
            y1 = x1 + branch(x2, f, norm, keep(1000, n, 0))[0]
            kept.append((y1, x2 + branch(y1, g, norm, keep(1000, n, 1))[0]))
        rebuilt, gradients = [kept[-1]], [(array(2), array(3))]
        for n, (f, g) in reversed(list(enumerate(weights))):
            (y1, y2), (dy1, dy2), seed = rebuilt[0], gradients[0], 6000 if anotherSeed else 1000
            out, g_backward = branch(y1, g, norm, keep(seed, n, 1))
            x2, dz = y2 - out, dy1 + g_backward(dy2)
            out, f_backward = branch(x2, f, norm, keep(seed, n, 0))
            rebuilt.insert(0, (y1 - out, x2))
            gradients.insert(0, (dz, dy2 + f_backward(dz)))
    return np.array([kept, rebuilt, gradients]).reshape(3, depth + 1, 2, -1)


def colour_cases():
    pairs = [(bucket, n) for n in (8, 16) for bucket in range(n)]

    def colours():
        mixed = [plots.to_rgb(plots.bucket_colour(*pair)) for pair in pairs]
        return np.floor(255 * np.array(mixed) + 0.5 + 1e-9)  # a half is rounded up

    yield Case(
        "colours of buckets",
        "common",
        "(m, pairs) => pairs.map(([i, n]) => m.bucketColour(i, n).match(/\\d+/g).map(Number))",
        pairs,
        colours,
    )
    yield Case(
        "colours of tokens",
        "common",
        "(m) => m.PALETTE.tokens.map((colour) => parseInt(colour.slice(1), 16))",
        None,
        lambda: [int(colour[1:], 16) for colour in cast.TOKEN_COLOURS],
    )


def attention_cases():
    recorded = json.loads((explore.FOLDER / "attention.json").read_text(encoding="utf-8"))
    length, chunk_len, heads = len(recorded["text"]), recorded["chunk_len"], recorded["heads"]

    def weights(head, how):
        r = head["scale"] * np.frombuffer(base64.b64decode(head["vectors"]), "int8").reshape(1, 1, length, -1)
        buckets = np.array([ord(letter) - ord("0") for letter in head["buckets"]], "int16").reshape(1, 1, -1, length)
        if how == "exactWeights":
            buckets = buckets[:, :, :1]  # in a single chunk, every query meets every key before it
        width = length if how == "exactWeights" else chunk_len
        ones = np.eye(length).reshape(length, -1, r.shape[-1])  # T, groups of D keys, D
        outs = [mr.lsh_attention(r, ones[None, None, :, i], buckets, chunk_len=width)[0] for i in range(ones.shape[1])]
        return np.concatenate(outs, axis=-1)[0, 0]  # with values of 0 and 1, the output is the weights

    for head in heads:
        for how, arguments in (("lshWeights", [chunk_len]), ("exactWeights", [])):
            yield Case(
                f"{how}, layer {head['layer']}, head {head['head']}",
                "attention_maths",
                f"""(m, [head, length, more]) => {{
                    const unpacked = m.unpackHead(head, length);
                    return Array.from({{ length }}, (_, t) => m.{how}(unpacked, ...more, t));
                }}""",
                [head, length, arguments],
                lambda head=head, how=how: weights(head, how),
            )


CASES = [*colour_cases(), *hash_cases(), *memory_cases(), *reversible_cases(), *attention_cases()]
