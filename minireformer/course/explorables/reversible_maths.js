// A stack of reversible blocks (notebook 06) in float16, float32 or float64, with every single operation rounded.
// JavaScript computes in float64. For +, -, *, / and square roots of float32 or float16 numbers, rounding to float64
// first and then to the smaller type changes nothing, as it has more than twice their digits. So the bits are NumPy's.
// F and G are a LayerNorm, if there is one, a matrix, and a ReLU; their output may go through dropout.

export const WIDTH = 8; // numbers in a token's vector
export const TOKENS = 16;
const RATE = 0.125; // of dropout; 1 / (1 - rate) is rounded

export const ROUND = { float16: toHalf, float32: Math.fround, float64: (x) => x };

const DOUBLE = new Float64Array(1);
const WORDS = new Uint32Array(DOUBLE.buffer); // the same bits; the second word holds the exponent

// The nearest float16: 11 significant bits, ties to even, steps of 2^-24 near zero, infinity from 65520.
export function toHalf(x) {
  const size = Math.abs(x);
  if (!(size > 0) || size === Infinity) return x;
  DOUBLE[0] = size;
  const exponent = Math.max((WORDS[1] >>> 20) - 1023, -14); // -14: that of the smallest normal numbers
  const step = 2 ** (exponent - 10);
  const whole = Math.floor(size / step);
  const rest = size / step - whole;
  const rounded = (rest > 0.5 || (rest === 0.5 && whole % 2) ? whole + 1 : whole) * step;
  return Math.sign(x) * (rounded >= 65520 ? Infinity : rounded);
}

// Random numbers from -1 to 1 in steps of 1/512, which float16 holds exactly (mulberry32).
export function steps(seed, n) {
  let state = seed >>> 0;
  return Array.from({ length: n }, () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 22) / 512 - 1;
  });
}

// The matrices of all blocks: [F's, G's] for each, WIDTH x WIDTH numbers row by row. Their variance is 1/3, so that F,
// with its ReLU, stretches a change a little (by the root of WIDTH / 6, or 1.15).
export function makeBlocks(depth) {
  return Array.from({ length: depth }, (_, i) => [0, 1].map((part) => steps(100 + 2 * i + part, WIDTH * WIDTH)));
}

// out = F(x) and what its backward pass needs. `keep`: dropout's mask as 0 and 1, or null.
function branch(x, weights, { round, norm }, keep) {
  const out = new Float64Array(x.length);
  const normed = new Float64Array(x.length);
  const scale = new Float64Array(x.length / WIDTH);
  for (let t = 0; t < scale.length; t++) {
    const row = t * WIDTH;
    normed.set(x.subarray(row, row + WIDTH), row);
    if (norm) {
      const mean = round(sum((i) => x[row + i], round) / WIDTH);
      for (let i = 0; i < WIDTH; i++) normed[row + i] = round(x[row + i] - mean);
      const variance = round(sum((i) => round(normed[row + i] * normed[row + i]), round) / WIDTH);
      scale[t] = round(Math.sqrt(variance));
      for (let i = 0; i < WIDTH; i++) normed[row + i] = round(normed[row + i] / scale[t]);
    }
    for (let j = 0; j < WIDTH; j++) {
      const z = sum((i) => round(normed[row + i] * weights[i * WIDTH + j]), round);
      out[row + j] = Math.max(z, 0);
      if (keep) out[row + j] = round(out[row + j] * (keep[row + j] * round(1 / (1 - RATE))));
    }
  }
  return { out, normed, scale };
}

// The gradient of F's input, from that of its output.
function branchBackward(dout, { out, normed, scale }, weights, { round, norm }, keep) {
  const dx = new Float64Array(dout.length);
  for (let t = 0; t < scale.length; t++) {
    const row = t * WIDTH;
    const dz = new Float64Array(WIDTH);
    for (let j = 0; j < WIDTH; j++) {
      const factor = keep ? keep[row + j] * round(1 / (1 - RATE)) : 1;
      dz[j] = out[row + j] > 0 ? round(dout[row + j] * factor) : 0;
    }
    for (let i = 0; i < WIDTH; i++) dx[row + i] = sum((j) => round(dz[j] * weights[i * WIDTH + j]), round);
    if (!norm) continue;
    const mean = round(sum((i) => dx[row + i], round) / WIDTH);
    const along = round(sum((i) => round(dx[row + i] * normed[row + i]), round) / WIDTH);
    for (let i = 0; i < WIDTH; i++) {
      const left = round(round(dx[row + i] - mean) - round(normed[row + i] * along));
      dx[row + i] = round(left / scale[t]);
    }
  }
  return dx;
}

// A sum over the entries of a vector, rounded after every addition.
function sum(entry, round) {
  let total = entry(0);
  for (let i = 1; i < WIDTH; i++) total = round(total + entry(i));
  return total;
}

const add = (a, b, round) => a.map((value, i) => round(value + b[i]));
const subtract = (a, b, round) => a.map((value, i) => round(value - b[i]));

function masks(settings, seed, block, part) {
  if (!settings.dropout) return null;
  return steps(seed + 2 * block + part, TOKENS * WIDTH).map((step) => (step < 2 * RATE - 1 ? 0 : 1));
}

// x (TOKENS x WIDTH numbers) starts both streams -> the streams before every block and after the last: [[x1, x2], ...].
export function forward(x, blocks, settings, seed) {
  const { round } = settings;
  const streams = [[Float64Array.from(x, round), Float64Array.from(x, round)]];
  blocks.forEach(([f, g], n) => {
    const [x1, x2] = streams[n];
    const y1 = add(x1, branch(x2, f, settings, masks(settings, seed, n, 0)).out, round);
    const y2 = add(x2, branch(y1, g, settings, masks(settings, seed, n, 1)).out, round);
    streams.push([y1, y2]);
  });
  return streams;
}

// One block back: from its outputs and their gradients to its inputs and theirs, { streams, gradients }. With `stored`,
// the inputs that forward had, nothing is rebuilt.
export function blockBackward([y1, y2], [dy1, dy2], n, blocks, settings, seed, stored = null) {
  const { round } = settings;
  const [f, g] = blocks[n];
  const [keepF, keepG] = [0, 1].map((part) => masks(settings, seed, n, part));
  const ofG = branch(y1, g, settings, keepG);
  const x2 = stored ? stored[1] : subtract(y2, ofG.out, round);
  const dz = add(dy1, branchBackward(dy2, ofG, g, settings, keepG), round);
  const ofF = branch(x2, f, settings, keepF);
  const x1 = stored ? stored[0] : subtract(y1, ofF.out, round);
  const dx2 = add(dy2, branchBackward(dz, ofF, f, settings, keepF), round);
  return { streams: [x1, x2], gradients: [dz, dx2] };
}

// The length of the difference of two pairs, relative to the length of the true one; NaN where numbers have overflowed.
export function relativeError(found, truth) {
  const squares = (a, b) => a.reduce((total, value, i) => total + (value - (b ? b[i] : 0)) ** 2, 0);
  const off = squares(found[0], truth[0]) + squares(found[1], truth[1]);
  return Math.sqrt(off / (squares(truth[0]) + squares(truth[1])));
}

// The whole way there and back: what forward had, what backward rebuilds, the gradients with either, and their errors.
// Entry n belongs to the streams before block n; the last is where backward starts.
export function thereAndBack(x, dy, blocks, settings) {
  const { round, anotherSeed } = settings;
  const [depth, seed] = [blocks.length, 1000];
  const kept = forward(x, blocks, settings, seed);
  const start = [0, 1].map((i) => Float64Array.from(dy[i], round));
  const [rebuilt, gradients, truth] = [[], [], []];
  [rebuilt[depth], gradients[depth], truth[depth]] = [kept[depth], start, start];
  for (let n = depth - 1; n >= 0; n--) {
    const own = seed + (anotherSeed ? 5000 : 0);
    const back = blockBackward(rebuilt[n + 1], gradients[n + 1], n, blocks, settings, own);
    [rebuilt[n], gradients[n]] = [back.streams, back.gradients];
    truth[n] = blockBackward(kept[n + 1], truth[n + 1], n, blocks, settings, seed, kept[n]).gradients;
  }
  const streamErrors = rebuilt.map((pair, n) => relativeError(pair, kept[n]));
  const gradientErrors = gradients.map((pair, n) => relativeError(pair, truth[n]));
  return { kept, rebuilt, gradients, streamErrors, gradientErrors };
}
