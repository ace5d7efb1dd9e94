// What the figure "tokens" says at each step, without drawing it: its name, the line of NumPy, a sentence, a table of
// numbers, and the marks below the tokens. A view is `look(state)`: the reader's choices and all that was computed.

import { LETTERS, compute, dot } from "./tokens_maths.js";
import {
  SYMBOLS, chunk, chunkOfRound, comesHome, compares, hashes, inRound, keys, letters, logit, looksBack, made, merges,
  number, outputs, pair, splits, weighs,
} from "./tokens_words.js";

export const BACKWARD = 10; // the first step of backward
export const LAST = 18;

export const MISTAKES = [
  ["none", "none"],
  ["lookback", "forget the look-back"],
  ["delta", "a Δ for each round"],
  ["rehash", "hash again in backward"],
];

// Where the tokens are: once, in the order of the text; once a round, in that order; sorted; or sorted and cut.
export function placing(step) {
  if ([0, 9, 10, LAST].includes(step)) return "once";
  return step === 1 || step === 8 ? "rounds" : step === 2 ? "sorted" : "cut";
}

export function look(state) {
  const all = compute(state);
  const g = state.step < BACKWARD ? all.f : all.again;
  const slots = Array.from({ length: state.nRounds }, (_, r) => 16 * r + g.places[r][state.follow]);
  const windows = slots.map((slot) => windowOf(g, Math.floor(slot / state.chunkLen)));
  const [n, c] = cut(slots[state.round], state.chunkLen);
  return { ...state, ...all, b: all.found, g, slots, windows, n, c, me: LETTERS[state.follow] };
}

const cut = (slot, chunkLen) => [Math.floor(slot / chunkLen), slot % chunkLen];

// The slots that chunk n reads.
function windowOf({ chunks, chunkLen }, n) {
  const before = (n + chunks.length - 1) % chunks.length;
  return [before, n].flatMap((each) => Array.from({ length: chunkLen }, (_, c) => each * chunkLen + c));
}

// Tables: { title, columns, rows: [name, cells], mine }. A name or a cell is a text, { token }, or { text, wrong }.

const token = (i) => ({ token: i });
const everyone = [...LETTERS].map((_, i) => token(i));
const ofAxes = (name, get) => ["→", "↑"].map((axis, d) => [`${name} ${axis}`, get(d)]);
const ofRounds = (s, cells) => s.f.w.map((_, r) => [`round ${r}`, cells(r)]);
const ofQueries = (s, cells) => chunk(s).map((i, c) => [token(i), cells(c)]);
const atKeys = (s, x) => s.windows[s.round].map((slot) => x.flat()[slot]);

// A number of backward, in red if the mistake has changed it. After another hash, slots hold other tokens.
function check(s, x, right, always = s.again === s.f) {
  return { text: number(x), wrong: always && Math.abs(x - right) > 0.005 };
}

function matrix(s, name, show) {
  const rows = ofQueries(s, (c) => keys(s).map((_, j) => show(c, j)));
  const title = `${name} of ${s.me}'s chunk${inRound(s)}: rows are queries, columns keys`;
  return { title, columns: keys(s).map(token), rows, mine: s.c };
}

// Arrays (2C, 2) that `get` finds in what backward computed.
function atWindow(s, title, ...arrays) {
  const rows = arrays.flatMap(([name, get]) => {
    const [found, right] = [get(s.b), get(s.right)];
    return ofAxes(name, (d) => found.map((vector, j) => check(s, vector[d], right[j][d])));
  });
  return { title: `${title}${inRound(s)}`, columns: keys(s).map(token), rows };
}

function tokenNumbers(s, title, x) {
  const first = (16 / s.chunkLen) * s.round;
  const named = (i) => ({ token: i, text: `${LETTERS[i]} ${i}` });
  const rows = x.slice(first, first + 16 / s.chunkLen).map((row, n) => [`chunk ${n}`, row.map(named)]);
  return { title: `${title}${inRound(s)}, as letters and numbers`, columns: [], rows, mine: chunkOfRound(s) };
}

// The steps: a name, those of the marks below the tokens, the mistakes that are made here, a line of NumPy, the shape
// of what it makes, a sentence, and a table.

export const STEPS = [
  {
    name: "vectors",
    names: ["v"],
    code: "q, v = 3 * x, x",
    shape: "T, 2",
    words:
      "Sixteen tokens, A to P. Each has a vector in the plane; similar vectors have similar colours. " +
      "Below each token is its arrow. The value is the vector itself, and the query is three times as long.",
    table: (s) => ({
      title: "The vectors",
      columns: everyone,
      rows: ofAxes("x", (d) => s.vectors.map((vector) => number(vector[d]))),
    }),
  },
  {
    name: "hash",
    names: ["bucket"],
    code: "buckets = np.concatenate([x @ Ω, -x @ Ω], axis=-1).argmax(axis=-1)",
    shape: "R, T",
    words: hashes,
    table: (s) => ({ title: "Buckets", columns: everyone, rows: ofRounds(s, (r) => s.f.buckets[r]) }),
  },
  {
    name: "sort",
    code: 'order = buckets.argsort(axis=1, kind="stable")',
    shape: "R, T",
    words: (s) =>
      "Tokens are sorted by bucket; within a bucket they stay in the order of the text. " +
      `${s.me} goes to slot ${s.f.places[s.round][s.follow]}${inRound(s)}. Like all numbers here, slots start at 0.`,
    table: (s) => {
      const order = s.f.orders[s.round];
      const rows = [["slot", order.map((_, slot) => slot)], ["order", order]];
      rows.push(["bucket", order.map((i) => s.f.buckets[s.round][i])]);
      return { title: `The token in each slot${inRound(s)}`, columns: order.map(token), rows };
    },
  },
  {
    name: "cut into chunks",
    code: "chunks = order.reshape(-1, C)",
    shape: "N, C",
    words: (s) =>
      `The sorted row is cut every ${s.chunkLen} slots, wherever a bucket ends. ` +
      `${s.me} is in the chunk ${letters(chunk(s))}${inRound(s)}.`,
    table: (s) => tokenNumbers(s, "Chunks", s.f.chunks),
  },
  {
    name: "look back",
    code: "windows = np.concatenate([np.roll(chunks, 1, axis=0), chunks], axis=1)",
    shape: "N, 2C",
    words: looksBack,
    table: (s) => tokenNumbers(s, "Windows", s.f.windows),
  },
  {
    name: "logits, with masks",
    names: ["logit S"],
    code: "S = masked(q[chunks] @ k[windows].mT)",
    shape: "N, C, 2C",
    words: compares,
    table: (s) => matrix(s, "Logits S", (c, j) => logit(s.f.S[s.n][c][j])),
  },
  {
    name: "weights",
    names: ["weight"],
    code: "L = log_sum_exp(S); weights = np.exp(S - L)",
    shape: "N, C, 2C",
    words: weighs,
    table: (s) => matrix(s, "Weights", (c, j) => number(s.f.P[s.n][c][j])),
  },
  {
    name: "outputs",
    names: ["output o"],
    code: "o = weights @ v[windows]",
    shape: "N, C, 2",
    words: (s) =>
      "An output is the weighted mean of the values that a query reads. " +
      `${s.me}'s is ${pair(s.f.o[s.n][s.c])}${inRound(s)}, the diamond in the plane.`,
    table: (s) => ({
      title: `Outputs of ${s.me}'s chunk${inRound(s)}`,
      columns: ["o →", "o ↑"],
      rows: ofQueries(s, (c) => s.f.o[s.n][c].map(number)),
      mine: s.c,
    }),
  },
  {
    name: "back in order",
    names: ["output o"],
    code: "o, L = o.reshape(-1, 2)[place], L.reshape(-1)[place]",
    shape: "R, T, 2",
    words: (s) =>
      `Every output goes home to its token: the sort, undone. ${s.me}'s was in slot ` +
      `${s.f.places[s.round][s.follow]}${inRound(s)}. Hollow diamonds are ${s.me}'s outputs, one a round.`,
    table: (s) => ({
      title: `${s.me}'s outputs and log-sum-exps`,
      columns: ["slot", "o →", "o ↑", "L"],
      rows: ofRounds(s, (r) => {
        const numbers = s.f.oRound[r][s.follow].map(number);
        return [s.f.places[r][s.follow], ...numbers, logit(s.f.LRound[r][s.follow])];
      }),
      mine: s.round,
    }),
  },
  {
    name: "merge the rounds",
    names: ["out"],
    code: "w = np.exp(L - log_sum_exp(L, axis=0)); out = (w[..., None] * o).sum(axis=0)",
    shape: "T, 2",
    words: merges,
    table: (s) => ({
      title: `The merge of ${s.me}'s outputs`,
      columns: ["weight w", "o →", "o ↑"],
      rows: [
        ...ofRounds(s, (r) => [s.f.w[r][s.follow], ...s.f.oRound[r][s.follow]].map(number)),
        ["out", ["", ...s.f.out[s.follow].map(number)]],
      ],
      mine: s.nRounds,
    }),
  },
  {
    name: "the gradient of an output",
    names: ["dO"],
    code: (s) => (s.all ? "dO = np.ones((T, 2))" : `dO = np.zeros((T, 2)); dO[${s.follow}] = 1`),
    shape: "T, 2",
    words: (s) =>
      `Now backward. Let the loss be the sum of the numbers in ${outputs(s)}. ` +
      `Then dO is (1, 1) at ${s.all ? "every token" : `${s.me} and (0, 0) everywhere else`}.`,
    table: (s) => ({
      title: `${s.me}'s output and its gradient`,
      columns: ["→", "↑"],
      rows: [["out", s.f.out[s.follow].map(number)], ["dO", s.b.dO[s.follow]]],
    }),
  },
  {
    name: "split at the merge",
    names: ["dO"],
    mistakes: ["delta", "rehash"],
    code: (s) => {
      if (made(s, "delta")) return "delta = (dO * o).sum(axis=-1)  # one for each round";
      if (made(s, "rehash")) return "buckets = hash_again(q)  # not those that forward kept";
      return "delta = (dO * out).sum(axis=-1); weights = np.exp(S - L)";
    },
    shape: (s) => (made(s, "delta") || made(s, "rehash") ? "R, T" : "T"),
    words: splits,
    table: (s) => ({
      title: `${s.me} in each round`,
      columns: ["sum of weights", "Δ"],
      rows: ofRounds(s, (r) => {
        return [number(s.again.w[r][s.follow]), check(s, s.b.delta[r][s.follow], s.right.delta[r][s.follow])];
      }),
      mine: s.round,
    }),
  },
  {
    name: "through the softmax",
    names: ["dS"],
    code: "dS = weights * (dO[chunks] @ v[windows].mT - delta)",
    shape: "N, C, 2C",
    words:
      "A logit's gradient is its weight times dO · v − Δ. Filled bars: a larger logit would raise the loss. " +
      "Hollow bars: it would lower it. Masked logits get 0.",
    table: (s) => matrix(s, "dS", (c, j) => check(s, s.b.dS[s.n][c][j], s.right.dS[s.n][c][j])),
  },
  {
    name: "to the values",
    names: ["dV"],
    code: "dVw = weights.mT @ dO[chunks]",
    shape: "N, 2C, 2",
    words: (s) =>
      s.all
        ? `Each value that ${s.me}'s chunk read gets the dO of its readers, each times the weight that it was given.`
        : `Each value that ${s.me} read gets ${s.me}'s dO, times its weight: the more it was read, the more it gets.`,
    table: (s) => atWindow(s, `dV from ${s.me}'s chunk`, ["dV", (b) => b.dVw[s.n]]),
  },
  {
    name: "to the queries",
    names: ["dQ"],
    code: "dQ = dS @ k[windows]",
    shape: "N, C, 2",
    words: (s) =>
      `A query adds up the keys that it saw, each times its dS. ${s.me} gets ${pair(s.b.dQ[s.n][s.c])}${inRound(s)}.`,
    table: (s) => ({
      title: `dQ of ${s.me}'s chunk${inRound(s)}`,
      columns: ["dQ →", "dQ ↑"],
      rows: ofQueries(s, (c) => s.b.dQ[s.n][c].map((x, d) => check(s, x, s.right.dQ[s.n][c][d]))),
      mine: s.c,
    }),
  },
  {
    name: "to the keys",
    names: ["dK"],
    code: "dKw = dS.mT @ q[chunks]",
    shape: "N, 2C, 2",
    words: (s) =>
      s.all
        ? `Each key that ${s.me}'s chunk saw gets the queries that saw it, each times its dS.`
        : `Each key that ${s.me} saw gets ${s.me}'s query, times its dS: all arrows are parallel to ${s.me}'s vector.`,
    table: (s) => atWindow(s, `dK from ${s.me}'s chunk`, ["dK", (b) => b.dKw[s.n]]),
  },
  {
    name: "look back, backwards",
    names: ["dK"],
    mistakes: ["lookback"],
    code: (s) => {
      const next = made(s, "lookback") ? "" : " + np.roll(dKw[:, :C], -1, axis=0)";
      return `dK = dKw[:, C:]${next}  # and the same for dV`;
    },
    shape: "N, C, 2",
    words: (s) =>
      made(s, "lookback")
        ? "Mistake: two chunks have read each key, but only its own sends a gradient. The next one's is forgotten."
        : "Two chunks have read each key and value: its own, and the next one, which looked back. We add up both.",
    table: (s) =>
      atWindow(s, "dK and dV of these slots", ["dK", (b) => atKeys(s, b.dK)], ["dV", (b) => atKeys(s, b.dV)]),
  },
  {
    name: "keys at unit length",
    names: ["rest of dK"],
    code: "dQ += (dK - (dK * K).sum(axis=-1, keepdims=True) * K) / length",
    shape: "N, C, 2",
    words:
      "A longer vector has the same key, of length 1. So we take out the part of dK along the key, and divide the " +
      "rest by |q|. What remains is at a right angle to the vector.",
    table: (s) => {
      const { rows, ...rest } = atWindow(s, "What dK sends to its token", ["rest", (b) => atKeys(s, b.dKey)]);
      const along = atKeys(s, s.b.dK).map((dk, j) => number(dot(dk, s.f.k[keys(s)[j]])));
      return { ...rest, rows: [["dK · k", along], ...rows] };
    },
  },
  {
    name: "home, and added up",
    names: ["dqk", "dv"],
    mistakes: ["lookback", "delta", "rehash"],
    code: "np.add.at(dqk, chunks, dQ); np.add.at(dv, chunks, dV)",
    shape: "T, 2",
    words: comesHome,
    table: (s) => {
      const rows = ["dqk", "dv"].flatMap((name) =>
        ofAxes(name, (d) => s.b[name].map((vector, i) => check(s, vector[d], s.right[name][i][d], true))),
      );
      const off = s.differences.map((x) => check(s, x, 0, true));
      const more = s.mistake === "none" ? [] : [["off by", off]];
      return { title: "The whole gradient", columns: everyone, rows: [...rows, ...more] };
    },
  },
];

// A code, shape or sentence, which may depend on the view.
export const say = (what, s) => (typeof what === "function" ? what(s) : what);

export function shape(s) {
  const names = say(STEPS[s.step].shape, s);
  const rounds = s.nRounds > 1 ? `${s.nRounds} rounds` : "1 round";
  const sizes = { T: "16 tokens", R: rounds, N: `${s.g.chunks.length} chunks`, C: `${s.chunkLen} slots` };
  const size = (name) => sizes[name] ?? (name === "2C" ? `${2 * s.chunkLen} slots read` : "2 numbers");
  return `shape (${names}): ${names.split(", ").map(size).join(" × ")}`;
}

// What the letters of the code mean.
export const symbols = (s) => say(SYMBOLS[s.step], s);

// The step at which the chosen mistake is made, or -1.
export const stepOfMistake = ({ mistake }) => STEPS.findIndex(({ mistakes }) => mistakes?.includes(mistake));

// Where the mistake is made, and whether it shows here.
export function note(s, red) {
  const at = stepOfMistake(s);
  if (at < 0 || s.step === LAST) return "";
  if (made(s, "delta") && s.nRounds === 1) return s.step === at ? "" : "Your mistake needs two rounds or more.";
  if (s.step < at) return `Your mistake comes later, at step ${at + 1}: nothing to see yet.`;
  if (red) return s.step > at ? `Red is what the mistake of step ${at + 1} has changed.` : "";
  return s.step > at ? `The mistake of step ${at + 1} changes nothing here.` : "";
}

// Marks below the tokens, a list for each slot (for each token where there is one row): { tag }, { bar, text } or
// { vector, right, cell }, where `right` is what the vector would be without the mistake, and `cell` its line.
export function marks(s) {
  const { f, b, g, right, step } = s;
  const all = Array.from({ length: 16 * s.nRounds }, () => []);
  const compare = s.again === f || step === LAST;
  const rows = (x) => (Array.isArray(x[0][0]) ? x.flat() : x); // (N, C, D) -> (N C, D)
  const arrows = (get, cell = 0) =>
    rows(get(b, g)).forEach((vector, i) => all[i].push({ vector, right: compare && rows(get(right, f))[i], cell }));
  const bySlot = (x) => x.map((row, r) => g.orders[r].map((i) => row[i])).flat();
  const read = (x, make) =>
    s.windows.forEach((window, r) => {
      const [n, c] = cut(s.slots[r], s.chunkLen);
      window.forEach((slot, j) => all[slot].push(make(x[n], c, j, n)));
    });
  const bars = (x, show, as = x) =>
    read(x, (rows, c, j, n) => {
      const wrong = s.again === f && Math.abs(rows[c][j] - as[n][c][j]) > 0.005;
      return { bar: rows[c][j], text: show(rows[c][j]), wrong };
    });
  const draw = {
    0: () => arrows(() => f.v),
    1: () => bySlot(f.buckets).forEach((tag, i) => all[i].push({ tag })),
    5: () => bars(f.S, logit),
    6: () => bars(f.P, number),
    7: () => arrows(() => f.o),
    8: () => arrows(() => bySlot(f.oRound)),
    9: () => arrows(() => f.out),
    10: () => arrows(() => b.dO),
    11: () => arrows(() => bySlot(f.w.map(() => b.dO))),
    12: () => bars(b.dS, number, right.dS),
    13: () => read(b.dVw, (rows, c, j) => ({ vector: rows[j], cell: 0 })),
    14: () => arrows((x) => x.dQ),
    15: () => read(b.dKw, (rows, c, j) => ({ vector: rows[j], cell: 0 })),
    16: () => arrows((x) => x.dK),
    17: () => arrows((x) => x.dKey),
    18: () => [arrows((x) => x.dqk), arrows((x) => x.dv, 1)],
  };
  draw[step]?.();
  return all;
}
