// The longer sentences of "tokens", and how numbers and letters are written. `s` is what tokens_steps.js calls a view.

import { FORBIDDEN, LETTERS, SELF } from "./tokens_maths.js";

export const number = (x) => (Math.abs(x) < 0.005 ? "0" : x.toFixed(2).replace("-", "−"));
export const logit = (s) => (s <= FORBIDDEN ? "×" : s <= SELF ? "self" : number(s));
export const pair = ([x, y]) => `(${number(x)}, ${number(y)})`;
export const letters = (tokens) => tokens.map((token) => LETTERS[token]).join("");
const listed = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
export const largest = (x) => x.indexOf(Math.max(...x));
export const inRound = (s) => (s.nRounds > 1 ? ` in round ${s.round}` : "");
export const outputs = (s) => (s.all ? "all outputs" : `${s.me}'s output`);
export const chunk = (s) => s.g.chunks[s.n];
export const keys = (s) => s.g.windows[s.n];
export const chunkOfRound = (s) => s.n % (16 / s.chunkLen);
export const made = (s, mistake) => s.mistake === mistake;

// What the letters in the code of each step mean, where they are new.
const gradient = (name, of) => `${name}: the gradient of the loss with respect to ${of}.`;
export const SYMBOLS = [
  "x: the vectors. q: queries, what a token looks for. v: values, what it has to give.",
  "x @ Ω: how far each vector points along two directions, which differ from round to round.",
  "order: the token in each slot. A slot is a place in the sorted row.",
  "C: the chunk length.",
  "windows: the tokens that each chunk reads. np.roll moves every chunk on by one.",
  "S: logits. k: keys, the queries scaled to length 1, so q · k = |q| cos θ. masked(): forbidden keys are left out.",
  "L: the log of the sum of exp(S), for each query. It makes the weights (P in formulas) add up to 1.",
  "o: the outputs of each round.",
  "place: the slot of each token, which undoes the sort. L comes along, for the merge.",
  "w: the weight of each round. out: the outputs of all rounds together.",
  gradient("dO", "out"),
  (s) => (made(s, "rehash") ? "" : "delta: Δ = dO · out, the mean of dO · v over all that a query read, by weight."),
  `${gradient("dS", "the logits")} It is positive where a value adds more to the loss than the mean, Δ.`,
  gradient("dVw", "the values in each window"),
  gradient("dQ", "the queries"),
  gradient("dKw", "the keys in each window"),
  "dK: what each slot gets as a key; dV: as a value. [:, :C] is the chunk before in each window, [:, C:] its own.",
  "K: the key in each slot, k[chunks]. length: |q|.",
  "dqk: for the vector as query and key. dv: as value. np.add.at adds even where a token comes more than once.",
];

export function hashes(s) {
  const buckets = s.f.buckets[s.round];
  const mates = [...LETTERS].filter((_, i) => i !== s.follow && buckets[i] === buckets[s.follow]);
  const rounds = s.nRounds > 1 ? "; each round turns the sectors" : "";
  return (
    `A token's bucket is the sector of the plane that its vector points to${rounds}. ` +
    `${s.me} is in bucket ${buckets[s.follow]}${inRound(s)}, ${mates.length ? `with ${listed(mates)}` : "alone"}.`
  );
}

export function looksBack(s) {
  const before = letters(keys(s).slice(0, s.chunkLen));
  const start = `Every chunk reads itself and the one before. So ${s.me} reads ${before} and ${letters(chunk(s))}`;
  if (chunkOfRound(s)) return `${start}${inRound(s)}.`;
  if (s.nRounds === 1) return `${start}: chunks form a circle, and the first reads the last.`;
  return `${start}. The first chunk of a round reads the last chunk of round ${(s.round || s.nRounds) - 1}: a circle.`;
}

export function compares(s) {
  const row = s.f.S[s.n][s.c];
  const best = largest(row);
  if (row[best] <= SELF) return `All other tokens here come later in the text, so ${s.me} has only itself to look at.`;
  const hidden = s.causal ? `Later tokens are hidden (×), and ${s.me} doesn't` : `${s.me} doesn't`;
  const hollow = row.some((x) => x < 0 && x > SELF) ? " Hollow bars are negative." : "";
  return (
    `A logit says how well a key fits a query: q · k. ${hidden} look at itself. ` +
    `${LETTERS[keys(s)[best]]} fits best${inRound(s)}, with ${number(row[best])}.${hollow}`
  );
}

export function weighs(s) {
  const row = s.f.P[s.n][s.c];
  const most = `${LETTERS[keys(s)[largest(row)]]} gets the most${inRound(s)}, ${number(Math.max(...row))}`;
  return `The softmax turns ${s.me}'s logits into weights that add up to 1. ${most}.`;
}

export function merges(s) {
  const out = pair(s.f.out[s.follow]);
  if (s.nRounds === 1) return `With one round there is nothing to merge: ${s.me}'s output is ${out}. Try two rounds.`;
  const shares = listed(s.f.w.map((row, r) => `${number(row[s.follow])} for round ${r}`));
  return (
    `A round with larger logits counts more: ${shares}. ${s.me}'s output is ${out}, the filled diamond. ` +
    "All rounds together are one softmax."
  );
}

export function splits(s) {
  const { round, token, bucket, runnerUp } = s.flip;
  const deltas = s.b.delta.map((row) => number(row[s.follow]));
  if (made(s, "rehash"))
    return (
      `Mistake: backward hashes again. A rounding error tips ${LETTERS[token]}, the token nearest to a border, from ` +
      `bucket ${bucket} to ${runnerUp} in round ${round}. Red tokens change slots: forward never saw these chunks.`
    );
  if (made(s, "delta") && s.nRounds === 1) return "With one round there is only one Δ, so there is no mistake to see.";
  const delta = number(s.right.delta[0][s.follow]);
  if (made(s, "delta"))
    return `Mistake: each round takes a Δ of its own, ${listed(deltas)}. All should share ${delta}.`;
  if (s.nRounds === 1) return `dO goes to the slots. We also need Δ = dO · out for each query: ${delta} for ${s.me}.`;
  return (
    `All rounds are one softmax, so each gets the same dO and the same Δ = dO · out = ${delta}. ` +
    "The weights are now those of all rounds together: L is that of the merge."
  );
}

export function comesHome(s) {
  const { dqk, dv } = s.b;
  if (s.mistake === "none")
    return (
      "Each token adds up what its slots send, as a query and as a key, over all rounds: dqk. As a value it gets dv. " +
      `For ${s.me}, they are ${pair(dqk[s.follow])} and ${pair(dv[s.follow])}.`
    );
  const spoilt = s.differences.map((x, i) => [x, LETTERS[i]]).filter(([x]) => x > 0.005);
  const most = listed(spoilt.sort(([x], [y]) => y - x).slice(0, 3).map(([, letter]) => letter));
  if (spoilt.length)
    return (
      `Red is with the mistake, grey is right. The gradient of ${outputs(s)} is wrong by ` +
      `${Math.max(1, Math.round(100 * s.error))} % of its length, at ${spoilt.length} ` +
      `token${spoilt.length > 1 ? "s" : ""}${spoilt.length > 3 ? "; most at" : ":"} ${most}.`
    );
  const hint = made(s, "delta") && s.nRounds === 1 ? "add a round" : s.all ? "change a vector" : "choose all outputs";
  return `This mistake doesn't change the gradient of ${outputs(s)}. Follow another token, or ${hint}.`;
}
