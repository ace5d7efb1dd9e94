// What one head of LSH attention weighs, from its vectors r and its buckets: attention.py for a single head, with a
// causal mask. Queries are r, keys r at unit length. Notebook 09 lists the same pairs.

// A recorded head, whose vectors are bytes in base64 and whose buckets are letters, "0" for the first
// -> { queries, keys: arrays of T vectors, buckets: an array of T numbers for every round }.
export function unpackHead({ vectors, scale, buckets }, length) {
  const rows = (numbers, width) =>
    Array.from({ length: numbers.length / width }, (_, i) => Array.from(numbers.slice(i * width, (i + 1) * width)));
  const whole = Int8Array.from(atob(vectors), (letter) => letter.charCodeAt(0));
  const queries = rows(whole, whole.length / length).map((row) => row.map((number) => number * scale));
  const keys = queries.map((row) => {
    const size = Math.sqrt(row.reduce((sum, number) => sum + number * number, 0) + 1e-6 * row.length); // unit_length.py
    return row.map((number) => number / size);
  });
  return { queries, keys, buckets: rows(Array.from(buckets, (letter) => letter.charCodeAt(0) - 48), length) };
}

// All slots of all rounds in one circle, sorted by round, bucket and position: the token in every slot.
export function sortByBucket(buckets) {
  return buckets.flatMap((round) => round.map((_, t) => t).sort((a, b) => round[a] - round[b] || a - b));
}

// The keys before position t that share a chunk with it, or are in the chunk before: an array for every round.
export function met(buckets, chunkLen, t) {
  const order = sortByBucket(buckets);
  const length = buckets[0].length;
  const nChunks = order.length / chunkLen;
  return buckets.map((_, round) => {
    const chunk = Math.floor(order.indexOf(t, round * length) / chunkLen);
    const before = (chunk + nChunks - 1) % nChunks; // the first chunk of a round looks back into another round
    const near = [before, chunk].flatMap((n) => order.slice(n * chunkLen, (n + 1) * chunkLen));
    return near.filter((key) => key < t);
  });
}

// The softmax of r_t . k over the given keys, added up where a key is there more than once: T weights. A position that
// sees nothing else sees itself.
export function weights({ queries, keys }, t, seen) {
  const found = new Array(keys.length).fill(0);
  if (!seen.length) found[t] = 1;
  const logits = seen.map((key) => queries[t].reduce((total, number, i) => total + number * keys[key][i], 0));
  const largest = Math.max(...logits);
  const exponentials = logits.map((logit) => Math.exp(logit - largest));
  const total = exponentials.reduce((sum, number) => sum + number, 0);
  seen.forEach((key, i) => (found[key] += exponentials[i] / total));
  return found;
}

export function lshWeights(head, chunkLen, t) {
  return weights(head, t, met(head.buckets, chunkLen, t).flat());
}

export function exactWeights(head, t) {
  return weights(head, t, Array.from({ length: t }, (_, key) => key));
}
