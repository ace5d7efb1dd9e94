// The hash of notebook 03 in the plane, and the chance that two vectors share a bucket: hashing.py and collision.py.
// A vector is [x, y]; the directions of a round are n / 2 such vectors, the columns of the random matrix.

// Numbers between 0 and 1 from a seed (mulberry32), the same in every browser.
export function uniforms(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32;
  };
}

// The random directions of one round: standard normal numbers (Box and Muller).
export function randomDirections(uniform, nBuckets) {
  return Array.from({ length: nBuckets / 2 }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
}

export function turn(directions, angle) {
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  return directions.map(([x, y]) => [c * x - s * y, s * x + c * y]);
}

export const unit = (angle) => [Math.cos(angle), Math.sin(angle)];

// argmax([x Omega; -x Omega]): the column of the largest |x Omega|, and the sign there.
export function bucketOf([x, y], directions) {
  let best = 0;
  let largest = -1;
  let negative = false;
  directions.forEach(([a, b], column) => {
    const along = x * a + y * b;
    if (Math.abs(along) > largest) [best, largest, negative] = [column, Math.abs(along), along < 0];
  });
  return best + (negative ? directions.length : 0);
}

// The sectors of the circle: [{ bucket, start, end }] in radians, anticlockwise, without gaps. A border between two
// arrows is at right angles to their difference.
export function sectors(directions) {
  const arrows = [...directions, ...directions.map(([x, y]) => [-x, -y])];
  const borders = [];
  arrows.forEach(([x, y], i) =>
    arrows.slice(0, i).forEach(([a, b]) => {
      const angle = Math.atan2(y - b, x - a);
      borders.push(angle + Math.PI / 2, angle - Math.PI / 2);
    }),
  );
  const full = 2 * Math.PI;
  const sorted = borders.map((angle) => ((angle % full) + full) % full).sort((a, b) => a - b);
  const found = [];
  sorted.forEach((start, i) => {
    const end = i + 1 < sorted.length ? sorted[i + 1] : sorted[0] + full;
    if (end - start < 1e-9) return;
    const bucket = bucketOf(unit((start + end) / 2), directions);
    const last = found[found.length - 1];
    if (last && last.bucket === bucket) last.end = end;
    else found.push({ bucket, start, end });
  });
  if (found.length > 1 && found[0].bucket === found[found.length - 1].bucket) {
    found[0].start = found.pop().start - full;
  }
  return found;
}

// The angle between two directions, 0 to pi.
export function angleBetween(a, b) {
  return Math.abs(Math.atan2(Math.sin(a - b), Math.cos(a - b)));
}

// In how many of `trials` fresh draws do vectors at the angles a and b share a bucket in at least one round?
export function countMeetings(uniform, a, b, nBuckets, nRounds, trials) {
  const [x, y] = [unit(a), unit(b)];
  let met = 0;
  for (let trial = 0; trial < trials; trial++) {
    for (let round = 0; round < nRounds; round++) {
      const directions = randomDirections(uniform, nBuckets);
      if (bucketOf(x, directions) === bucketOf(y, directions)) {
        met++;
        break;
      }
    }
  }
  return met;
}

// The chance that two vectors at this angle share a bucket in at least one of nRounds rounds: 1 - (1 - p)^R.
export function collisionProbability(angle, nBuckets, nRounds = 1) {
  return 1 - (1 - oneRound(angle, nBuckets)) ** nRounds;
}

// p of a single round: for 2 and 4 buckets a formula; else integrate over the direction that wins, at distance r and at
// an angle of psi to the middle between the two vectors. It beats m - 1 others on both vectors, whose projections on it
// are u and v. By symmetry, half the angles will do. collision.py has the same integral in other coordinates.
function oneRound(angle, nBuckets) {
  const m = nBuckets / 2;
  if (m <= 2) return (1 - angle / Math.PI) ** m;
  const widest = (Math.PI - angle) / 2;
  if (angle < 1e-9 || widest < 1e-9) return angle < 1e-9 ? 1 : 0;
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const far = 6.5; // standard deviations, beyond which a random point in the plane lies with probability 1e-9
  let p = 0;
  for (const [node, weight] of PLANE) {
    const r = far * node;
    const density = far * weight * r * Math.exp((r * r) / -2);
    for (const [part, share] of PLANE) {
      const u = r * Math.cos(widest * part - angle / 2);
      const v = r * Math.cos(widest * part + angle / 2);
      const inside = Math.max(1 - beyond(u, v, cos, sin) - beyond(v, u, cos, sin), 0);
      p += density * share * inside ** (m - 1);
    }
  }
  return (2 * m * p * widest) / Math.PI;
}

// The chance that (U, V) leaves the parallelogram |U| < u, |V| < v through one of the two sides |U| = u.
function beyond(u, v, rho, sigma) {
  const first = Math.atan2(-v - rho * u, sigma * u);
  const span = Math.atan2(v - rho * u, sigma * u) - first;
  let total = 0;
  for (const [node, weight] of SIDE) {
    const far = u / Math.cos(first + node * span);
    total += weight * Math.exp((far * far) / -2);
  }
  return (total * span) / Math.PI;
}

// Nodes and weights of Gauss-Legendre quadrature between 0 and 1: roots of the Legendre polynomial, by Newton's method.
function gauss(n) {
  return Array.from({ length: n }, (_, i) => {
    let x = Math.cos((Math.PI * (i + 0.75)) / (n + 0.5));
    let slope;
    for (let step = 0; step < 100; step++) {
      let [p, before] = [x, 1];
      for (let k = 2; k <= n; k++) [p, before] = [((2 * k - 1) * x * p - (k - 1) * before) / k, p];
      slope = (n * (x * p - before)) / (x * x - 1);
      const move = p / slope;
      x -= move;
      if (Math.abs(move) < 1e-15) break;
    }
    return [(1 + x) / 2, 1 / ((1 - x * x) * slope * slope)];
  });
}

const PLANE = gauss(24);
const SIDE = gauss(16);
