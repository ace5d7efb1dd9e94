// The row of sixteen tokens, once or once a round: squares that move from step to step, marks below them, and around
// them the buckets, chunks and look-back arcs of the course's own picture (course/journey.py).

import { PALETTE, bucketColour, drawing, set, svg } from "./common.js";
import { LETTERS } from "./tokens_maths.js";
import { BACKWARD, LAST, STEPS, marks, placing } from "./tokens_steps.js";

const [SIZE, PITCH, ABOVE, BELOW] = [32, 38, 36, 48]; // of a token, its place, and what is above and below a row
const GAPS = { 2: 8, 4: 16, 8: 24 }; // between chunks, by their length
const FADES = [4, 5, 6, 7, 12, 13, 14, 15]; // steps at which tokens that are not read are pale
const ARCS = [4, 5, 6, 7, 13, 14, 15, 16];
const REVERSED = [13, 15, 16]; // steps at which the gradient takes the arcs backwards
const SMALL = 0.005; // shown as 0
export const MIDDLE = { "text-anchor": "middle", dy: "0.36em" };

export const differs = ({ vector, right }) => right && Math.hypot(...vector.map((x, d) => x - right[d])) > SMALL;
export const classes = (kinds) => Object.keys(kinds).filter((name) => kinds[name]).map((name) => `tokens-${name}`);

// An arrow with an open head, as the d of a path.
export function arrow(x0, y0, x1, y1, head = 4) {
  const [turn, size] = [Math.atan2(y1 - y0, x1 - x0), Math.min(head, 0.6 * Math.hypot(x1 - x0, y1 - y0))];
  const wing = (side) => `${x1 - size * Math.cos(turn + side)} ${y1 - size * Math.sin(turn + side)}`;
  return `M ${x0} ${y0} L ${x1} ${y1} M ${wing(0.6)} L ${x1} ${y1} L ${wing(-0.6)}`;
}

// A rectangle with round corners, centred at height y.
export const box = (x0, x1, y, height, look) =>
  svg("rect", { x: x0, y: y - height / 2, width: x1 - x0, height, rx: 7, ...look });

// How long the arrow or bar of a mark is, in units of its numbers. Each line of arrows (`cell`) has a scale of its own.
function extent(mark, cell = 0) {
  if (mark.vector) return mark.cell === cell ? Math.hypot(...mark.vector) : 0;
  return mark.bar > -1000 ? Math.abs(mark.bar) : 0;
}

export function longest(all, cell = 0) {
  const withRight = all.flat().flatMap((mark) => (mark.right ? [mark, { ...mark, vector: mark.right }] : [mark]));
  return Math.max(1e-9, ...withRight.map((mark) => extent(mark, cell)));
}

// Where the slots are. `kind` is what `placing` gives; a narrow page has lines of eight.
function layout(kind, narrow, { nRounds, chunkLen }) {
  const [columns, left, spare] = narrow ? [8, 16, 24] : [16, 62, 56];
  const [lines, tall, pitch] = [16 / columns, SIZE + 2 * BELOW, ABOVE + SIZE + BELOW];
  const height = narrow && kind === "once" ? lines * tall : Math.max(nRounds * lines * pitch, lines * tall);
  const middle = Math.min(50, (height - lines * tall) / 2); // the top of a single row
  return {
    columns,
    height,
    width: left + columns * PITCH + spare + 16,
    at(slot) {
      const [line, column] = [Math.floor(slot / columns), slot % columns];
      const cuts = kind === "cut" ? GAPS[chunkLen] * (Math.floor(column / chunkLen) - (columns / chunkLen - 1) / 2) : 0;
      const y = kind === "once" ? middle + line * tall + 24 : ABOVE + line * pitch;
      return [left + spare / 2 + PITCH / 2 + column * PITCH + cuts, y + SIZE / 2];
    },
  };
}

export function makeRow({ onFollow, onHover }) {
  const layers = ["bands", "boxes", "arcs", "labels"].map(() => svg("g"));
  const [bands, boxes, arcs, labels] = layers;
  const tokens = []; // a list for each round that has been asked for
  const element = drawing(1, 1, "Sixteen tokens", layers);
  let drawn = null; // the step and its layout: what is new fades in after the tokens have moved

  function makeToken(round, follow, letter) {
    const square = box(-SIZE / 2, SIZE / 2, 0, SIZE, { class: "tokens-square", fill: PALETTE.tokens[follow] });
    const below = svg("g");
    const choose = () => onFollow(follow, round);
    const point = (event) => event.pointerType === "mouse" && onHover({ follow, round });
    const actions = { onclick: choose, onfocus: choose, onpointerenter: point, onpointerleave: () => onHover(null) };
    const name = svg("text", { class: "ex-on-colour", ...MIDDLE }, letter);
    return { below, element: svg("g", { role: "button", ...actions }, below, square, name) };
  }

  function draw(s, narrow) {
    const kind = placing(s.step);
    const place = layout(kind, narrow, s);
    const size = { viewBox: `0 0 ${place.width} ${place.height}`, style: `max-width: ${1.2 * place.width}px` };
    set(element, size);
    for (let r = tokens.length; r < s.nRounds; r++) {
      tokens.push([...LETTERS].map((letter, i) => makeToken(r, i, letter)));
      element.append(...tokens[r].map((token) => token.element));
    }
    const all = marks(s);
    const scales = {
      largest: [0, 1].map((cell) => longest(all, cell)),
      signed: all.flat().some(({ bar }) => bar < 0 && bar > -1000),
    };
    tokens.forEach((each, r) => each.forEach((token, i) => drawToken(s, kind, place, all, scales, token, r, i)));
    const late = drawn !== `${s.step} ${narrow} ${s.nRounds}` && "tokens-late";
    drawn = `${s.step} ${narrow} ${s.nRounds}`;
    for (const layer of layers) layer.replaceChildren();
    drawLabels(s, kind, place, narrow);
    if (kind === "sorted" || kind === "cut") drawBands(s, place, late);
    if (kind === "cut") drawChunks(s, place, late);
  }

  function drawToken(s, kind, place, all, scales, { element: token, below }, r, i) {
    const hidden = r >= s.nRounds || (kind === "once" && r > 0);
    const round = Math.min(r, s.nRounds - 1);
    const slot = 16 * round + s.g.places[round][i];
    const where = kind === "once" ? i : kind === "rounds" ? 16 * round + i : slot;
    const [x, y] = place.at(where);
    const mine = i === s.follow;
    const moved = s.step > BACKWARD && s.step < LAST && s.g.places[round][i] !== s.f.places[round][i];
    const spoilt = s.step === LAST && s.differences[i] > SMALL;
    const faded = FADES.includes(s.step) && !s.windows.flat().includes(slot);
    set(token, {
      class: ["tokens-token", ...classes({ hidden, mine, wrong: moved || spoilt, faded: faded && !hidden })].join(" "),
      style: `transform: translate(${x}px, ${y}px)`,
      tabindex: mine && !hidden && (r === s.round || kind === "once") ? 0 : -1,
      "aria-label": `Follow ${LETTERS[i]}${kind === "once" ? "" : `, round ${r}`}`,
      "aria-pressed": String(mine),
      "aria-hidden": hidden && "true",
    });
    const own = hidden ? [] : all[kind === "once" ? i : slot];
    below.replaceChildren(...own.flatMap((mark, n) => drawMark(s, mark, n, own.length, scales)).filter(Boolean));
  }

  // A bucket, an arrow, or a bar with its number. A slot that is read in two rounds has two thin bars.
  function drawMark(s, mark, n, count, { largest, signed }) {
    const back = s.step >= BACKWARD ? " tokens-back" : "";
    const top = SIZE / 2;
    if (mark.tag !== undefined) {
      const tag = box(-12, 12, top + 14, 20, { fill: bucketColour(mark.tag, 8) });
      return [tag, svg("text", { y: top + 14, class: "ex-on-colour ex-small", ...MIDDLE }, mark.tag)];
    }
    if (mark.vector) {
      const y = top + 26 + 44 * (mark.cell ?? 0);
      const line = (vector, kind) => {
        const [dx, dy] = vector.map((x) => (18 * x) / largest[mark.cell ?? 0]);
        return Math.hypot(dx, dy) > 0.5 && svg("path", { d: arrow(0, y, dx, y - dy), class: `tokens-arrow${kind}` });
      };
      const origin = svg("circle", { cy: y, r: 1.5, class: "tokens-origin" });
      if (!differs(mark)) return [origin, line(mark.vector, back)];
      return [origin, line(mark.right, " tokens-right"), line(mark.vector, " tokens-spoilt")];
    }
    const red = mark.wrong ? " tokens-spoilt" : "";
    const words = count === 1 && svg("text", { y: top + 41, class: `tokens-number${red}`, ...MIDDLE }, mark.text);
    if (mark.bar < -1000) return [words];
    const high = (mark.bar / largest[0]) * (signed ? 12 : 20);
    const [x, width] = count > 1 ? [14 * n - 13, 12] : [-10, 20];
    const look = { x, width, y: top + (signed ? 22 : 32) - Math.max(0, high), height: Math.max(0.8, Math.abs(high)) };
    return [words, svg("rect", { ...look, class: `tokens-bar${back}${high < 0 ? " tokens-below" : ""}${red}` })];
  }

  // Beside a row (above it, on a narrow page): its round, and the name of what is marked below the tokens.
  function drawLabels(s, kind, place, narrow) {
    const { names = [] } = STEPS[s.step];
    const rounds = kind === "once" ? [0] : s.f.w.map((_, r) => r);
    for (const r of rounds) {
      const [x, y] = place.at(16 * r);
      const round = kind !== "once" && s.nRounds > 1 && `Round ${r}`;
      const write = (words, left, top, anchor = "end") => {
        const where = { x: left, y: top, dy: "0.36em", "text-anchor": anchor };
        labels.append(svg("text", { class: "ex-small ex-quiet", ...where }, words));
      };
      const above = y - SIZE / 2 - (kind === "once" ? 13 : 28);
      if (narrow) write([round, names.join(", then ")].filter(Boolean).join(": "), x - SIZE / 2 - 5, above, "start");
      else {
        if (round) write(round, x - SIZE / 2 - 21, y);
        names.forEach((name, cell) => write(name, x - SIZE / 2 - 21, y + SIZE / 2 + 26 + 44 * cell));
      }
      if (s.step !== 2) continue;
      for (let slot = 0; slot < 16; slot++) {
        const [left, middle] = place.at(16 * r + slot);
        write(slot, left, middle - SIZE / 2 - 12, "middle");
      }
    }
  }

  // A pale band behind each run of equal buckets in a line.
  function drawBands(s, place, late) {
    const buckets = s.g.orders.flatMap((order, r) => order.map((i) => s.g.buckets[r][i]));
    for (let start = 0, stop; start < buckets.length; start = stop) {
      for (stop = start + 1; stop % place.columns && buckets[stop] === buckets[start]; stop++);
      const [[x0, y], [x1]] = [place.at(start), place.at(stop - 1)];
      const band = { fill: bucketColour(buckets[start], 8), class: `tokens-band ${late || ""}` };
      for (const look of [band, { class: `tokens-shade ${late || ""}` }])
        bands.append(box(x0 - PITCH / 2 + 0.5, x1 + PITCH / 2 - 0.5, y, SIZE + 8, look));
      if (s.step !== 2) continue;
      const name = stop - start > 1 ? `bucket ${buckets[start]}` : buckets[start];
      const where = { x: (x0 + x1) / 2, y: y + SIZE / 2 + 16, ...MIDDLE };
      labels.append(svg("text", { class: `ex-small ${late || ""}`, ...where }, name));
    }
  }

  function drawChunks(s, place, late) {
    const [mine, read] = [s.slots, s.windows.map(([first]) => first)].map((slots) =>
      slots.map((slot) => Math.floor(slot / s.chunkLen)),
    );
    const look = (name, kinds) => ({ class: [name, ...classes(kinds), late || ""].join(" ") });
    const showsAll = s.step === 4 || s.step === 16;
    s.g.chunks.forEach((_, n) => {
      const own = mine.includes(n);
      const { x0, x1, y } = chunkBox(s, place, n);
      const kinds = { mine: own, read: ARCS.includes(s.step) && read.includes(n) };
      boxes.append(box(x0, x1, y, SIZE + 12, look("tokens-box", kinds)));
      if (!ARCS.includes(s.step) || !(own || showsAll)) return;
      for (const [d, dashed] of lookBackArcs(s, place, n))
        arcs.append(svg("path", { d, ...look("tokens-arc", { mine: own, dashed, back: s.step >= BACKWARD }) }));
    });
  }

  function chunkBox(s, place, n) {
    const [[x0, y], [x1]] = [place.at(n * s.chunkLen), place.at((n + 1) * s.chunkLen - 1)];
    return { x0: x0 - SIZE / 2 - 4.5, x1: x1 + SIZE / 2 + 4.5, y, middle: (x0 + x1) / 2 };
  }

  // From a chunk to itself, and from the one before: [path, dashed] each. From another line, stubs at the margins.
  function lookBackArcs(s, place, n) {
    const here = chunkBox(s, place, n);
    const before = chunkBox(s, place, (n + s.g.chunks.length - 1) % s.g.chunks.length);
    const [top, reversed] = [here.y - SIZE / 2 - 7, REVERSED.includes(s.step)];
    const arc = (from, to, high) => {
      const [a, b] = reversed ? [to, from] : [from, to];
      return `M ${a} ${top} C ${a} ${top - high} ${b} ${top - high} ${b} ${top} m -4 -6 l 4 6 l 4 -6`;
    };
    const own = [arc(here.middle - 12, here.middle + 12, 20), false];
    if (before.y === here.y) {
      const aside = s.chunkLen === 2 ? 17 : 34;
      return [own, [arc(before.middle + aside, here.middle - aside, n ? 28 : 36), n === 0]];
    }
    const stub = (x0, x1, y) => [reversed ? arrow(x1, y, x0, y, 6) : arrow(x0, y, x1, y, 6), false];
    return [own, stub(here.x0 - 15, here.x0 - 2, here.y), stub(before.x1 + 2, before.x1 + 15, before.y)];
  }

  return { element, draw };
}
