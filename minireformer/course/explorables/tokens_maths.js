// LSH attention for the course's sixteen tokens, forward and backward, with every array on the way (notebooks 04, 05a,
// 05b). Letters are the notebooks': R rounds, N chunks of C slots, windows of 2C keys; q, v, S, L, P, o, dO, Δ, dS.

export const LETTERS = "ABCDEFGHIJKLMNOP";
export const VECTORS = [
  [-0.59, 1.16], [0.56, -0.77], [0.65, 0.63], [-1.08, 0.39],
  [0.75, -0.4], [-0.83, -0.56], [-0.23, 0.92], [1.04, 0.6],
  [0.44, -1.22], [-0.5, 0.69], [1.02, -0.95], [-0.79, 0.11],
  [-0.7, -1.04], [0.72, 1.14], [1.19, -0.17], [-0.89, 0.8],
];
export const ANGLES = [50, 0, 25, 70]; // degrees: the hash's first direction in each round
export const STRETCH = 3; // q = 3 v, as in notebook 04
export const FORBIDDEN = -1e9; // the logit of a key that the query may not see
export const SELF = -1e5; // that of a token's own key: chosen only when everything else is forbidden

export const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
export const times = (x, a) => a.map((each) => x * each);
const plus = (a, b) => a.map((x, i) => x + b[i]);
const zeros = (x) => x.map((each) => each.map(() => 0));
const total = (vectors) => vectors.reduce(plus);
const mix = (weights, vectors) => total(vectors.map((vector, i) => times(weights[i], vector)));
const transpose = (x) => x[0].map((_, j) => x.map((row) => row[j]));
const chunked = (x, chunkLen) =>
  Array.from({ length: x.length / chunkLen }, (_, n) => x.slice(n * chunkLen, (n + 1) * chunkLen));

export function logSumExp(x) {
  const top = Math.max(...x);
  return top + Math.log(x.reduce((sum, each) => sum + Math.exp(each - top), 0));
}

// Hash, sort, look back

// The directions of one round: `nBuckets` / 2 unit vectors; their opposites are the other half.
export function directions(angle, nBuckets = 4) {
  return Array.from({ length: nBuckets / 2 }, (_, column) => {
    const turn = ((angle + (360 * column) / nBuckets) * Math.PI) / 180;
    return [Math.cos(turn), Math.sin(turn)];
  });
}

// argmax([xΩ; -xΩ]) of one vector, its bucket, and how far the runner-up is behind.
function nearest(vector, angle, nBuckets) {
  const near = directions(angle, nBuckets).map((direction) => dot(vector, direction));
  const all = [...near, ...near.map((x) => -x)];
  const bucket = all.indexOf(Math.max(...all));
  const others = all.map((x, i) => (i === bucket ? -Infinity : x));
  const runnerUp = others.indexOf(Math.max(...others));
  return { bucket, runnerUp, gap: (all[bucket] - all[runnerUp]) / Math.hypot(...vector) };
}

// Buckets (R, T), one round for each angle.
export function hash(vectors, angles, nBuckets = 4) {
  return angles.map((angle) => vectors.map((vector) => nearest(vector, angle, nBuckets).bucket));
}

// The token and round whose vector is nearest to a border: if rounding moves a vector, its bucket flips first.
export function nearestBorder(vectors, angles) {
  const all = angles.flatMap((angle, round) =>
    vectors.map((vector, token) => ({ round, token, ...nearest(vector, angle, 4) })),
  );
  return all.reduce((best, each) => (each.gap < best.gap ? each : best));
}

// The token in each slot (T). JavaScript's sort is stable: the tokens of a bucket stay in the order of the text.
export function sortByBucket(buckets) {
  return buckets.map((_, token) => token).sort((a, b) => buckets[a] - buckets[b]);
}

// The slot of each token: the inverse of a permutation.
export function inverse(order) {
  const place = [];
  order.forEach((token, slot) => (place[token] = slot));
  return place;
}

// Chunks (N, C) -> windows (N, 2C): each chunk behind the one before it, in a circle.
export function lookBack(chunks) {
  return chunks.map((chunk, n) => [...chunks.at(n - 1), ...chunk]);
}

// dw (N, 2C, D) -> (N, C, D): the second half of its own 2C rows, and the first half of the next chunk's.
export function lookBackBackward(dw, chunkLen) {
  return dw.map((own, n) => {
    const next = dw[(n + 1) % dw.length];
    return own.slice(chunkLen).map((row, c) => plus(row, next[c]));
  });
}

// Attention

export function unitLength(q) {
  const scale = q.map((vector) => 1 / Math.sqrt(dot(vector, vector) + 1e-6 * vector.length));
  return { scale, k: q.map((vector, token) => times(scale[token], vector)) };
}

// q, v (T, D), buckets (R, T) -> all that the steps compute on their way to out (T, D).
export function forward(q, v, buckets, { chunkLen, causal }) {
  const { scale, k } = unitLength(q);
  const orders = buckets.map(sortByBucket); // (R, T)
  const places = orders.map(inverse); // (R, T)
  const chunks = orders.flatMap((order) => chunked(order, chunkLen)); // (N, C)
  const windows = lookBack(chunks); // (N, 2C)
  const masked = (i, j) => (i === j ? SELF : causal && j > i ? FORBIDDEN : dot(q[i], k[j]));
  const S = chunks.map((chunk, n) => chunk.map((i) => windows[n].map((j) => masked(i, j)))); // (N, C, 2C)
  const L = S.map((rows) => rows.map(logSumExp)); // (N, C)
  const P = S.map((rows, n) => rows.map((row, c) => row.map((s) => Math.exp(s - L[n][c])))); // (N, C, 2C)
  const o = P.map((rows, n) => rows.map((row) => mix(row, windows[n].map((j) => v[j])))); // (N, C, D)
  const home = (x) => places.map((place, r) => place.map((slot) => x.flat()[r * place.length + slot]));
  const [LRound, oRound] = [home(L), home(o)]; // (R, T), (R, T, D)
  const LAll = transpose(LRound).map(logSumExp); // (T)
  const w = LRound.map((row) => row.map((x, i) => Math.exp(x - LAll[i]))); // (R, T)
  const out = transpose(oRound).map((rows, i) => mix(w.map((row) => row[i]), rows)); // (T, D)
  const sorted = { buckets, orders, places, chunkLen, chunks, windows };
  return { q, v, k, scale, ...sorted, S, L, P, o, LRound, oRound, LAll, w, out };
}

// dk -> dq for k = q / |q|: take out the part along the key, and divide by the length.
export function unitLengthBackward(dk, k, scale) {
  return times(scale, plus(dk, times(-dot(dk, k), k)));
}

// dO (T, D) and what forward computed -> every gradient on the way to dqk and dv (T, D). The last argument is for
// mistakes: `deltaPerRound` gives each round a Δ of its own, `forgetLookBack` sends nothing to the chunk before.
export function backward(dO, f, { deltaPerRound = false, forgetLookBack = false } = {}) {
  const { q, v, k, scale, chunkLen, chunks, windows } = f;
  const roundOf = (n) => Math.floor((n * chunkLen) / q.length);
  const delta = f.oRound.map((rows) => rows.map((o, i) => dot(dO[i], deltaPerRound ? o : f.out[i]))); // (R, T)
  const weights = (row, i) => row.map((s) => Math.exp(s - f.LAll[i])); // of all rounds together
  const P = f.S.map((rows, n) => rows.map((row, c) => weights(row, chunks[n][c]))); // (N, C, 2C)
  const dS = P.map((rows, n) =>
    rows.map((row, c) => {
      const i = chunks[n][c];
      const masked = (j) => f.S[n][c][j] <= SELF; // a constant: no gradient
      return row.map((p, j) => (masked(j) ? 0 : p * (dot(dO[i], v[windows[n][j]]) - delta[roundOf(n)][i])));
    }),
  ); // (N, C, 2C)
  const toKeys = (x, vectors) => transpose(x).map((column) => mix(column, vectors));
  const dVw = P.map((rows, n) => toKeys(rows, chunks[n].map((i) => dO[i]))); // (N, 2C, D)
  const dQ = dS.map((rows, n) => rows.map((row) => mix(row, windows[n].map((j) => k[j])))); // (N, C, D)
  const dKw = dS.map((rows, n) => toKeys(rows, chunks[n].map((i) => q[i]))); // (N, 2C, D)
  const together = (dw) => (forgetLookBack ? dw.map((rows) => rows.slice(chunkLen)) : lookBackBackward(dw, chunkLen));
  const [dV, dK] = [together(dVw), together(dKw)]; // (N, C, D)
  const project = (dk, token) => unitLengthBackward(dk, k[token], scale[token]);
  const dKey = dK.map((rows, n) => rows.map((dk, c) => project(dk, chunks[n][c]))); // (N, C, D)
  const [dqk, dv] = [zeros(q), zeros(v)]; // (T, D)
  chunks.flat().forEach((token, slot) => {
    dqk[token] = total([dqk[token], dQ.flat()[slot], dKey.flat()[slot]]);
    dv[token] = plus(dv[token], dV.flat()[slot]);
  });
  return { dO, delta, P, dS, dVw, dQ, dKw, dV, dK, dKey, dqk, dv };
}

// The whole figure

// Forward; backward as it should be (`right`); and as it is `found` with a mistake, from `again`, which is forward
// unless the mistake is to hash again. `differences` (T) are lengths, `error` is that of the whole gradient.
export function compute({ vectors, nRounds, chunkLen, causal, follow, all, mistake }) {
  const [angles, q] = [ANGLES.slice(0, nRounds), vectors.map((vector) => times(STRETCH, vector))];
  const buckets = hash(vectors, angles);
  const f = forward(q, vectors, buckets, { chunkLen, causal });
  const dO = vectors.map((vector, i) => vector.map(() => (all || i === follow ? 1 : 0)));
  const right = backward(dO, f);
  const flip = nearestBorder(vectors, angles);
  let again = f;
  if (mistake === "rehash") {
    const flipped = (row, r) => row.map((b, i) => (r === flip.round && i === flip.token ? flip.runnerUp : b));
    again = forward(q, vectors, buckets.map(flipped), { chunkLen, causal });
  }
  const found = backward(dO, again, { deltaPerRound: mistake === "delta", forgetLookBack: mistake === "lookback" });
  const both = (b) => b.dqk.map((row, i) => [...row, ...b.dv[i]]);
  const differences = both(found).map((row, i) => Math.hypot(...plus(row, times(-1, both(right)[i]))));
  const error = Math.hypot(...differences) / Math.hypot(...both(right).flat());
  return { f, right, again, found, flip, differences, error };
}
