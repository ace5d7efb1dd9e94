// Two vectors and their buckets in the plane (notebook 03). Drag H and O, turn the directions, add rounds, and compare
// a thousand random draws with the curve. The maths is in hash_maths.js.

import {
  PALETTE, bucketColour, button, controls, drawing, grouped, html, lessMotion, liveText, movable, select, set, slider,
  svg,
} from "./common.js";
import {
  angleBetween, bucketOf, collisionProbability, countMeetings, randomDirections, sectors, turn, uniforms, unit,
} from "./hash_maths.js";

const DEGREE = Math.PI / 180;
const NAMES = ["H", "O"];
const [SIZE, RADIUS, DIAL] = [340, 126, 152];
const DRAWS = 1000;
const MIDDLE = { "text-anchor": "middle", dy: "0.36em" };

export function mount(root) {
  const state = { angles: [30 * DEGREE, -8 * DEGREE], nBuckets: 4, nRounds: 1, shown: 0, turned: 0, seed: 4 };
  let rounds = []; // the directions of every round, before they are turned
  let dots = []; // the tallies so far: [angle, share that met]
  let tally = null; // the one that is being filled
  const text = liveText();

  function drawDirections() {
    const uniform = uniforms(state.seed);
    rounds = Array.from({ length: 8 }, () => randomDirections(uniform, state.nBuckets));
    state.turned = 0;
  }

  const directionsOf = (round) => (round === state.shown ? turn(rounds[round], state.turned) : rounds[round]);
  const bucketsIn = (round) => state.angles.map((angle) => bucketOf(unit(angle), directionsOf(round)));
  const share = (round) => bucketsIn(round)[0] === bucketsIn(round)[1];

  // The circle

  const slices = svg("g");
  const arrows = svg("g", { "aria-hidden": "true" });
  const tokens = state.angles.map((_, i) => makeToken(i));
  const dial = movable(svg("g", {}, svg("circle", { r: 13, class: "hash-dial" }), turnSign()), {
    label: "Turn the directions",
    onMove: (x, y) => turnTo(pointed(x, y)),
    onKey: (steps) => turnTo(state.turned + steps * DEGREE),
  });
  const ring = svg("circle", { cx: SIZE / 2, cy: SIZE / 2, r: DIAL, class: "hash-ring" });
  const circle = drawing(SIZE, SIZE, "Two vectors and the buckets of one round", ring, slices, arrows, tokens, dial);

  function makeToken(i) {
    const fill = PALETTE.tokens[PALETTE.letters.indexOf(NAMES[i])];
    const badge = svg(
      "g",
      {},
      svg("rect", { x: -15, y: -15, width: 30, height: 30, rx: 7, fill, class: "hash-token" }),
      svg("text", { class: "ex-on-colour", ...MIDDLE }, NAMES[i]),
    );
    return movable(svg("g", {}, svg("line", { class: "hash-vector" }), badge), {
      label: `Direction of vector ${NAMES[i]}`,
      onMove: (x, y) => moveTo(i, pointed(x, y)),
      onKey: (steps) => moveTo(i, state.angles[i] + steps * DEGREE),
    });
  }

  function turnSign() {
    return svg("text", { class: "hash-sign", ...MIDDLE }, "↻");
  }

  const pointed = (x, y) => Math.atan2(SIZE / 2 - y, x - SIZE / 2);
  const at = (angle, r) => [SIZE / 2 + r * Math.cos(angle), SIZE / 2 - r * Math.sin(angle)];
  const degrees = (angle) => ((Math.round(angle / DEGREE) % 360) + 360) % 360;

  function moveTo(i, angle) {
    state.angles[i] = Math.round(angle / DEGREE) * DEGREE;
    tally = null;
    draw();
  }

  function turnTo(angle) {
    state.turned = Math.round(angle / DEGREE) * DEGREE;
    draw();
  }

  function drawCircle() {
    const directions = directionsOf(state.shown);
    slices.replaceChildren(...sectors(directions).map((sector) => slice(sector)));
    const longest = Math.max(...directions.map(([x, y]) => Math.hypot(x, y)));
    const line = ([x, y], dashes) => {
      const [left, top] = [SIZE / 2 + (x / longest) * RADIUS * 0.84, SIZE / 2 - (y / longest) * RADIUS * 0.84];
      const look = { class: "hash-direction", "stroke-dasharray": dashes };
      const dot = !dashes && svg("circle", { cx: left, cy: top, r: 3 });
      return svg("g", {}, svg("line", { x1: SIZE / 2, y1: SIZE / 2, x2: left, y2: top, ...look }), dot);
    };
    arrows.replaceChildren(...directions.flatMap(([x, y]) => [line([x, y]), line([-x, -y], "4 3")]));
    tokens.forEach((token, i) => {
      const [x, y] = at(state.angles[i], RADIUS * 0.62);
      set(token.firstChild, { x1: SIZE / 2, y1: SIZE / 2, x2: x, y2: y });
      set(token.lastChild, { transform: `translate(${x} ${y})` });
      turned(token, state.angles[i], `bucket ${bucketsIn(state.shown)[i]}`);
    });
    const [x, y] = at(state.turned, DIAL);
    set(dial, { transform: `translate(${x} ${y})` });
    turned(dial, state.turned, "turned");
  }

  // What a screen reader says of something at an angle.
  function turned(element, angle, words) {
    const now = degrees(angle);
    const range = { "aria-valuemin": 0, "aria-valuemax": 359, "aria-valuenow": now };
    set(element, { ...range, "aria-valuetext": `${now} degrees, ${words}` });
  }

  function slice({ bucket, start, end }) {
    const [x1, y1] = at(start, RADIUS);
    const [x2, y2] = at(end, RADIUS);
    const [x, y] = at((start + end) / 2, RADIUS + 13);
    const arc = `A ${RADIUS} ${RADIUS} 0 ${end - start > Math.PI ? 1 : 0} 0 ${x2} ${y2}`;
    const d = `M ${SIZE / 2} ${SIZE / 2} L ${x1} ${y1} ${arc} Z`;
    const number = end - start > 0.15 && svg("text", { x, y, class: "ex-small", ...MIDDLE }, bucket);
    return svg("g", {}, svg("path", { d, fill: bucketColour(bucket, state.nBuckets), class: "hash-slice" }), number);
  }

  // One button for each round

  function show(round) {
    rounds[state.shown] = directionsOf(state.shown); // as they have been turned
    [state.shown, state.turned] = [round, 0];
  }

  const roundButtons = html("div", { class: "ex-controls", role: "group", "aria-label": "Round in the circle" });
  const badges = Array.from({ length: 8 }, (_, round) =>
    button("", () => {
      show(round);
      draw();
    }),
  );

  function drawRounds() {
    roundButtons.replaceChildren(...(state.nRounds > 1 ? badges.slice(0, state.nRounds) : []));
    badges.forEach((badge, round) => {
      badge.textContent = `round ${round}: ${share(round) ? "✓ together" : "✗ apart"}`;
      set(badge, { "aria-pressed": String(round === state.shown) });
    });
  }

  // The curve and the tallies

  const [LEFT, TOP, WIDTH, HEIGHT] = [40, 34, 282, 220];
  const plot = svg("g");
  const panel = drawing(SIZE, 300, "The chance to meet against the angle", axes(), plot);
  const across = (angle) => LEFT + (angle / Math.PI) * WIDTH;
  const up = (p) => TOP + (1 - p) * HEIGHT;
  const curves = new Map(); // p of one round every 6 degrees, for each number of buckets

  function axes() {
    const [right, bottom] = [LEFT + WIDTH, TOP + HEIGHT];
    const heights = [0, 0.5, 1].map((p) => [
      svg("line", { x1: LEFT, x2: right, y1: bottom - p * HEIGHT, y2: bottom - p * HEIGHT, class: "hash-ring" }),
      svg("text", { x: LEFT - 14, y: bottom - p * HEIGHT, class: "ex-small", ...MIDDLE }, p),
    ]);
    const angles = [0, 45, 90, 135, 180].map((degree) =>
      svg("text", { x: LEFT + (degree / 180) * WIDTH, y: bottom + 13, class: "ex-small", ...MIDDLE }, `${degree}°`),
    );
    const name = svg("text", { x: LEFT + WIDTH / 2, y: bottom + 34, ...MIDDLE }, "angle θ between H and O");
    return [heights, angles, name];
  }

  function drawPlot() {
    const { nBuckets, nRounds } = state;
    const grid = Array.from({ length: 31 }, (_, i) => (i / 30) * Math.PI);
    if (!curves.has(nBuckets)) {
      curves.set(nBuckets, grid.map((angle) => collisionProbability(angle, nBuckets)));
    }
    const curve = (power, look) => {
      const points = curves.get(nBuckets).map((p, i) => `${across(grid[i])},${up(1 - (1 - p) ** power)}`);
      return svg("polyline", { points: points.join(" "), class: `hash-curve ${look}` });
    };
    const angle = angleBetween(...state.angles);
    const now = across(angle);
    const p = collisionProbability(angle, nBuckets, nRounds);
    const several = `The chance to meet in ${nRounds} rounds (dashed: in one)`;
    const shares = tally ? [...dots, [tally.angle, tally.met / tally.drawn]] : dots;
    plot.replaceChildren(
      svg("text", { x: 4, y: 16 }, nRounds > 1 ? several : "p(θ), the chance to share a bucket"),
      nRounds > 1 ? curve(1, "hash-thin") : "",
      curve(nRounds, ""),
      svg("line", { x1: now, x2: now, y1: TOP, y2: TOP + HEIGHT, class: "hash-now" }),
      svg("circle", { cx: now, cy: up(p), r: 8, class: "hash-curve" }),
      ...shares.map(([angle, p]) => svg("circle", { cx: across(angle), cy: up(p), r: 5, class: "hash-dot" })),
      tally ? counted(tally) : "",
    );
  }

  // The name of the newest dot, to its right, or to its left where the plot ends.
  function counted({ angle, met, drawn }) {
    const left = angle > Math.PI / 2;
    const place = { x: across(angle) + (left ? -11 : 11), y: up(met / drawn) - 7 };
    const look = { "text-anchor": left ? "end" : "start", class: "ex-small" };
    return svg("text", { ...place, ...look }, `${grouped(drawn)} draws`);
  }

  // A thousand draws, a few in every frame

  const drawMany = button(`Draw ${grouped(DRAWS)} times`, () => {
    const angle = angleBetween(...state.angles);
    const current = { angle, met: 0, drawn: 0, uniform: uniforms((state.seed += 1)) };
    tally = current;
    const step = () => {
      if (tally !== current) return;
      const more = lessMotion() ? DRAWS : 20;
      current.met += countMeetings(current.uniform, ...state.angles, state.nBuckets, state.nRounds, more);
      current.drawn += more;
      if (current.drawn < DRAWS) {
        requestAnimationFrame(step);
      } else {
        dots.push([angle, current.met / current.drawn]);
      }
      draw();
    };
    step();
  });

  function say() {
    const [a, b] = bucketsIn(state.shown);
    const angle = angleBetween(...state.angles);
    const p = collisionProbability(angle, state.nBuckets, state.nRounds);
    const where = state.nRounds > 1 ? ` in round ${state.shown}, which the circle shows` : "";
    const both = a === b ? `Both are in bucket ${a}` : `H is in bucket ${a} and O in bucket ${b}`;
    const met = Array.from({ length: state.nRounds }, (_, round) => share(round)).filter(Boolean).length;
    const inAll = state.nRounds > 1 ? ` They share a bucket in ${met} of the ${state.nRounds} rounds.` : "";
    const chance = state.nRounds > 1 ? "meet in at least one round" : "share a bucket";
    const counted = tally ? ` In ${grouped(tally.drawn)} draws they did so ${tally.met} times.` : "";
    text.say(
      `H and O are ${degrees(angle)} degrees apart. ${both}${where}.${inAll} ` +
        `With random directions, they ${chance} with probability ${p.toFixed(3)}.${counted}`,
    );
  }

  function draw() {
    drawCircle();
    drawRounds();
    drawPlot();
    say();
  }

  function start(change) {
    Object.assign(state, change);
    [dots, tally] = [[], null];
    if (state.shown >= state.nRounds) show(0);
    draw();
  }

  const buckets = select({
    label: "buckets",
    options: [2, 4, 8, 16].map((n) => [n, n]),
    value: state.nBuckets,
    onInput: (nBuckets) => {
      state.nBuckets = nBuckets;
      drawDirections();
      start({});
    },
  });
  const nRounds = slider({ label: "rounds", min: 1, max: 8, value: 1, onInput: (value) => start({ nRounds: value }) });
  const fresh = button("New random directions", () => {
    state.seed += 1;
    drawDirections();
    draw();
  });

  const words =
    "Each line is a bucket: solid lines are random directions, dashed ones their opposites. A vector goes to the " +
    "line with which it has the largest dot product, so a short line may get no sector. Drag ↻ to turn the lines. " +
    "Arrow keys work, too, ten degrees at a time with Shift.";
  const caption = html("p", { class: "ex-caption" }, words);
  root.append(
    html("p", { class: "ex-title" }, "Drag H and O. When do they share a bucket?"),
    controls(buckets, nRounds, fresh, drawMany),
    html("div", { class: "ex-panels" }, html("div", {}, circle, roundButtons, caption), panel),
    text.element,
  );
  drawDirections();
  draw();
}
