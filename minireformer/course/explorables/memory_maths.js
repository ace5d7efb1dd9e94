// The memory of one training step, from its sizes alone: memory.predict, and the lines of notebook 00 around it.
// All numbers are bytes in float32, and the models are those of the notebook: d_ff = 4 d_model, eight heads as wide as
// the model together, chunks of 64 tokens in LSH attention and of 1,024 positions in feed-forward layers.

const SIZE = 4; // bytes of a float32
const HEADS = 8;
const LSH_CHUNK = 64;
const FF_CHUNK = 1024;
export const MAX_LEN = 2 ** 22;

export const DESIGNS = {
  Transformer: {},
  "+ LSH": { lsh: true },
  "+ reversible": { lsh: true, reversible: true },
  "+ chunks": { lsh: true, reversible: true, chunks: true },
};

// default_n_buckets of hashing.py: how many buckets there are; it also splits large numbers, with the same product.
function countBuckets(padded) {
  return 2 ** Math.max(1, Math.floor(Math.log2(2 * Math.floor(padded / LSH_CHUNK))));
}

// memory.predict of a model with layers of one kind: `lsh`, or full attention.
export function predict({ length, batch, dModel, nLayers, nRounds }, { lsh = false, reversible = false }) {
  const tokens = batch * length;
  const activation = tokens * dModel * SIZE;
  const statistics = 2 * tokens * SIZE; // mean and scale of a LayerNorm
  const chunked = lsh && length > LSH_CHUNK;
  const padded = chunked ? Math.ceil(length / LSH_CHUNK) * LSH_CHUNK : length;
  const slots = batch * HEADS * padded;
  const rounds = chunked ? nRounds : 1;
  const bucketBytes = !chunked || countBuckets(padded) < 2 ** 16 ? 2 : 4;
  // The streams and their LayerNorms' outputs; the projections; the heads' output, m and l for every query.
  let block = 4 * activation + 2 * statistics + (lsh ? 2 : 3) * activation + slots * (dModel / HEADS + 2) * SIZE;
  if (padded > length) block += batch * padded; // the mask that hides the padding
  if (chunked) block += rounds * slots * 4; // the order of each round's slots
  const blocks = nLayers * block;
  const buckets = lsh ? nLayers * rounds * HEADS * tokens * bucketBytes : 0;
  const stored = tokens * 8 + 2 * activation + statistics + buckets + (reversible ? 0 : blocks);
  return { activation, hidden: 4 * activation, attention_matrix: length ** 2 * SIZE, blocks, buckets, stored };
}

// The parts of a training step, in the order in which they are stacked: [name, bytes].
export function trainingParts(sizes, { lsh = false, reversible = false, chunks = false }) {
  const { length, batch, dModel, nLayers } = sizes;
  const size = predict(sizes, { lsh, reversible });
  const parameters = nLayers * dModel * ((lsh ? 3 : 4) * dModel + 8 * dModel);
  const hidden = (reversible ? 2 : nLayers) * size.hidden;
  return [
    ["parameters, gradients and Adam", 4 * SIZE * parameters],
    ["working memory of one layer", 15 * size.activation],
    ["attention matrices", lsh ? 0 : nLayers * batch * HEADS * size.attention_matrix],
    ["stored activations", size.stored],
    ["feed-forward hidden arrays", chunks ? (hidden * FF_CHUNK) / Math.max(FF_CHUNK, batch * length) : hidden],
  ];
}

export function trainingBytes(sizes, design) {
  return trainingParts(sizes, design).reduce((sum, [, bytes]) => sum + bytes, 0);
}

// The longest text that fits into `card` bytes, in whole chunks of 64 tokens, by bisection; 0 if none does.
export function longestText(sizes, design, card) {
  let [fits, tooLong] = [0, MAX_LEN / LSH_CHUNK + 1];
  while (tooLong - fits > 1) {
    const middle = Math.floor((fits + tooLong) / 2);
    if (trainingBytes({ ...sizes, length: middle * LSH_CHUNK }, design) <= card) fits = middle;
    else tooLong = middle;
  }
  return fits * LSH_CHUNK;
}
