// Sixteen tokens on their way through LSH attention, and their gradients on the way back (notebooks 04, 05a, 05b): the
// plane, the table of numbers, and what the reader can change. tokens_row.js draws the row of tokens, tokens_steps.js
// says what there is to see at each step, and tokens_maths.js computes it.

import {
  PALETTE, bucketColour, button, controls, drawing, html, liveText, movable, select, set, slider, svg, toggle,
} from "./common.js";
import { ANGLES, LETTERS, VECTORS } from "./tokens_maths.js";
import { MIDDLE, arrow, box, differs, longest, makeRow } from "./tokens_row.js";
import {
  BACKWARD, LAST, MISTAKES, STEPS, look, marks, note, placing, say, shape, stepOfMistake, symbols,
} from "./tokens_steps.js";
import { largest } from "./tokens_words.js";

const [PLANE, RADIUS, UNIT] = [300, 131, 78]; // the plane, its disk, and a vector of length 1
const START = { step: 0, follow: "P", nRounds: 2, chunkLen: 4, causal: true, all: false, mistake: "none" };
const FIRST = { nRounds: 1, chunkLen: 3, causal: 5, all: BACKWARD }; // the steps that show these choices

export function mount(root, data) {
  const fresh = () => VECTORS.map((vector) => [...vector]);
  const state = { ...START, ...data, round: 0, vectors: fresh() };
  state.follow = LETTERS.indexOf(state.follow);
  let [hovered, narrow, dragging] = [null, false, false];
  const text = liveText();
  text.element.classList.add("tokens-says");
  const row = makeRow({ onFollow: follow, onHover: hover });

  function follow(i, round = state.round) {
    [state.follow, state.round, hovered] = [i, round, null];
    draw();
  }

  function hover(which) {
    if (dragging || (hovered?.follow === which?.follow && hovered?.round === which?.round)) return;
    hovered = which;
    draw();
  }

  // The plane

  const toPlane = ([x, y]) => [PLANE / 2 + UNIT * x, PLANE / 2 - UNIT * y];
  const [sectors, under, over] = [svg("g"), svg("g"), svg("g", { class: "tokens-over" })];
  const points = [...LETTERS].map(makePoint);
  const plane = drawing(PLANE, PLANE, "The vectors in the plane", sectors, under, points, over);
  set(plane, { style: `max-width: ${PLANE}px` });

  function makePoint(letter, i) {
    const square = box(-10, 10, 0, 20, { fill: PALETTE.tokens[i], class: "tokens-square" });
    const point = svg("g", {}, square, svg("text", { class: "ex-on-colour ex-small", ...MIDDLE }, letter));
    movable(point, {
      onMove(x, y) {
        if (state.follow !== i) follow(i);
        const [x0, y0] = toPlane(state.vectors[i]);
        dragging ||= Math.hypot(x - x0, y - y0) > 9; // a mere click leaves the vector as it is
        if (dragging) move(i, [(x - PLANE / 2) / UNIT, (PLANE / 2 - y) / UNIT]);
      },
      onKey(steps, key) {
        const step = /Left|Right/.test(key) ? [0.02 * steps, 0] : [0, 0.02 * steps];
        move(i, state.vectors[i].map((x, d) => x + step[d]));
      },
    });
    const drop = () => (dragging = false);
    const actions = { onpointerup: drop, onpointercancel: drop, onfocus: () => state.follow !== i && follow(i) };
    return set(point, { role: "button", "aria-roledescription": "point to move", ...actions });
  }

  function move(i, [x, y]) {
    const length = Math.hypot(x, y) || 1;
    const shorter = Math.min(1.6, Math.max(0.1, length)) / length;
    state.vectors[i] = [x, y].map((each) => Math.round(100 * each * shorter) / 100);
    draw();
  }

  function drawPlane(s) {
    const buckets = placing(s.step) === "once" ? [] : [0, 1, 2, 3]; // in other steps no round is meant
    const four = buckets.flatMap((bucket) => drawSector(bucket, ANGLES[s.round] + 90 * bucket));
    const [cx, cy] = toPlane([0, 0]);
    const look = { cx, cy, r: RADIUS, class: buckets.length ? "tokens-shade" : "tokens-disk" };
    sectors.replaceChildren(...four, svg("circle", look));
    const [origin, mine] = [toPlane([0, 0]), toPlane(s.vectors[s.follow])];
    const line = (from, to, look) => svg("path", { d: `M ${from.join(" ")} L ${to.join(" ")}`, ...look });
    const weights = { 5: s.f.S[s.n][s.c].map((logit) => (logit > -1000 ? 0.15 : 0)), 6: s.f.P[s.n][s.c] };
    const links = (weights[s.step === 7 ? 6 : s.step] ?? []).map((weight, j) => {
      const key = toPlane(s.vectors[s.f.windows[s.n][j]]);
      return weight > 0 && line(mine, key, { class: "tokens-link", "stroke-width": 9 * weight });
    });
    under.replaceChildren(line(origin, mine, { class: "tokens-ray" }), ...links.filter(Boolean));
    points.forEach((point, i) => {
      const [x, y] = toPlane(s.vectors[i]);
      const where = s.vectors[i].map((each) => each.toFixed(2)).join(", ");
      const label = `Vector of ${LETTERS[i]}, at ${where}. Arrow keys move it.`;
      set(point, { transform: `translate(${x} ${y})`, tabindex: i === s.follow ? 0 : -1, "aria-label": label });
      point.firstChild.classList.toggle("tokens-mine", i === s.follow);
    });
    over.replaceChildren(...(s.step < BACKWARD ? drawOutputs(s) : drawGradients(s)));
  }

  function drawSector(bucket, angle) {
    const at = (turn, r) => {
      const radians = ((angle + turn) * Math.PI) / 180;
      return [PLANE / 2 + r * Math.cos(radians), PLANE / 2 - r * Math.sin(radians)];
    };
    const [from, to, [x, y]] = [at(-45, RADIUS), at(45, RADIUS), at(0, RADIUS + 10)];
    const d = `M ${PLANE / 2} ${PLANE / 2} L ${from.join(" ")} A ${RADIUS} ${RADIUS} 0 0 0 ${to.join(" ")} Z`;
    const sector = svg("path", { d, fill: bucketColour(bucket, 8), class: "tokens-sector" });
    return [sector, svg("text", { x, y, class: "ex-small ex-quiet", ...MIDDLE }, bucket)];
  }

  // Diamonds: hollow for the output of a round, filled for all rounds together.
  function drawOutputs(s) {
    const diamond = (vector, kind = "") => {
      const [x, y] = toPlane(vector);
      return svg("path", { d: `M ${x} ${y - 8} l 8 8 l -8 8 l -8 -8 Z`, class: `tokens-diamond${kind}` });
    };
    if (s.step < 7) return [];
    if (s.step === 7) return [diamond(s.f.o[s.n][s.c], " tokens-below")];
    const hollow = s.f.oRound.map((outputs) => diamond(outputs[s.follow], " tokens-below"));
    return s.step === 8 ? hollow : [...hollow, diamond(s.f.out[s.follow])];
  }

  // An arrow at each token of this round that gets a gradient.
  function drawGradients(s) {
    const once = placing(s.step) === "once";
    const all = marks(s).slice(once ? 0 : 16 * s.round, once ? 16 : 16 * s.round + 16);
    const largest = longest(all);
    return all.flatMap((list, slot) => {
      const [x, y] = toPlane(s.vectors[once ? slot : s.g.orders[s.round][slot]]);
      const line = (vector, kind) => {
        const [dx, dy] = vector.map((each) => (46 * each) / largest);
        const start = Math.hypot(dx, dy) > 16 ? 9 / Math.hypot(dx, dy) : 0; // beside the letter
        const d = arrow(x + start * dx, y - start * dy, x + dx, y - dy, 6);
        return svg("path", { d, class: `tokens-arrow ${kind}` });
      };
      const shown = list.filter((mark) => mark.vector && longest([mark]) > 0.01 * largest);
      return shown.flatMap((mark) => {
        if (!differs(mark)) return [line(mark.vector, "tokens-back")];
        return [line(mark.right, "tokens-right"), line(mark.vector, "tokens-spoilt")];
      });
    });
  }

  // Numbers: a table for every eight columns

  const table = html("div", { class: "tokens-scroll", tabindex: 0, role: "region", "aria-label": "Numbers" });

  function drawTable({ title, columns, rows, mine }) {
    const coloured = (what) => what.token !== undefined && { style: `background: ${PALETTE.tokens[what.token]}` };
    const shown = (what) => String(what.text ?? (what.token === undefined ? what : LETTERS[what.token]));
    const cell = (tag, what, more) => {
      const kind = what.wrong ? "tokens-wrong" : coloured(what) ? "tokens-chip" : null;
      return html(tag, { class: kind, ...coloured(what), ...more }, shown(what));
    };
    const parts = [];
    for (let start = 0; start === 0 || start < columns.length; start += 8) {
      const cut = (list) => (columns.length ? list.slice(start, start + 8) : list);
      const head = html("tr", {}, html("td"), cut(columns).map((column) => cell("th", column, { scope: "col" })));
      const body = rows.map(([name, cells], i) => {
        const look = { class: i === mine && "tokens-mine" };
        return html("tr", look, cell("th", name, { scope: "row" }), cut(cells).map((each) => cell("td", each)));
      });
      parts.push(html("table", { class: "tokens-table" }, columns.length > 0 && head, body));
    }
    table.replaceChildren(html("p", { class: "ex-caption" }, title), ...parts);
  }

  // Steps and choices

  const title = html("p", { class: "ex-title" });
  const [code, size, where] = [html("code"), html("div"), html("div")];
  const go = (step) => {
    state.step = Math.max(0, Math.min(LAST, step));
    steps.value = state.step;
    draw();
  };
  const previous = button("← Previous", () => go(state.step - 1));
  const next = button("Next →", () => go(state.step + 1));
  const format = (step) => `${step + 1} of ${LAST + 1}`;
  const steps = slider({ label: "step", min: 0, max: LAST, value: state.step, onInput: go, format });

  // A choice takes the reader to the first step that shows it, and a mistake to a token and round that it spoils.
  const choose = (name) => ({
    value: state[name],
    onInput(value) {
      state[name] = value;
      state.round = Math.min(state.round, state.nRounds - 1);
      const mistaken = name === "mistake" ? stepOfMistake(state) : -1;
      if (mistaken >= 0) showMistake();
      go(mistaken >= 0 ? mistaken : Math.max(state.step, FIRST[name] ?? 0));
    },
  });
  function showMistake() {
    const error = (i) => look({ ...state, follow: i }).error;
    if (!state.all && error(state.follow) < 0.01) state.follow = largest([...LETTERS].map((_, i) => error(i)));
    if (state.mistake === "rehash") state.round = look(state).flip.round;
  }

  const lengths = [2, 4, 8].map((n) => [n, String(n)]);
  const losses = [[false, "this token's output"], [true, "all outputs"]];
  const reset = button("Reset the vectors", () => choose("vectors").onInput(fresh()));
  const choices = html(
    "details",
    { class: "tokens-choices" },
    html("summary", {}, "Change something, or make a mistake"),
    controls(
      toggle({ label: "causal", ...choose("causal") }),
      slider({ label: "rounds", min: 1, max: 4, ...choose("nRounds") }),
      select({ label: "chunk length", options: lengths, ...choose("chunkLen") }),
      select({ label: "gradient of", options: losses, ...choose("all") }),
      select({ label: "mistake", options: MISTAKES, ...choose("mistake") }),
      reset,
    ),
  );

  // Which round the plane and the table show. Anew whenever the number of rounds changes.
  const rounds = html("div");
  let nShown = 0;

  function drawRounds({ nRounds, step, round }) {
    rounds.hidden = nRounds === 1;
    rounds.style.visibility = placing(step) === "once" ? "hidden" : ""; // it keeps its place
    if (nShown !== nRounds) {
      const options = Array.from({ length: nRounds }, (_, r) => [r, `round ${r}`]);
      rounds.control = select({ label: "plane and table", options, onInput: (r) => follow(state.follow, r) });
      rounds.replaceChildren(rounds.control.element);
    }
    nShown = nRounds;
    rounds.control.value = round;
  }

  function draw() {
    const s = look({ ...state, ...hovered });
    const step = STEPS[s.step];
    const broken = Boolean(s.mistake !== "none" && step.mistakes?.includes(s.mistake));
    title.textContent = `${s.step < BACKWARD ? "Forward" : "Backward"}: ${step.name}`;
    code.textContent = say(step.code, s);
    size.textContent = shape(s);
    where.textContent = symbols(s);
    code.classList.toggle("tokens-wrong", broken && s.step < LAST);
    text.element.classList.toggle("tokens-mistaken", broken);
    previous.disabled = s.step === 0;
    next.disabled = s.step === LAST;
    reset.disabled = String(s.vectors) === String(VECTORS);
    row.draw(s, narrow);
    drawRounds(s);
    drawPlane(s);
    drawTable(step.table(s));
    const red = root.querySelector(".tokens-token.tokens-wrong, td.tokens-wrong, .tokens-spoilt");
    text.say(`${say(step.words, s)} ${note(s, red)}`);
  }

  root.addEventListener("keydown", (event) => {
    const { key, target } = event;
    const side = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[key];
    const sideways = /Left|Right/.test(key);
    const onToken = row.element.contains(target);
    const modified = event.ctrlKey || event.altKey || event.metaKey;
    if (!side || modified || target.matches("input, select") || !(sideways || onToken)) return;
    if (sideways) go(state.step + side);
    else follow((state.follow + side + 16) % 16);
    if (onToken) row.element.querySelector('[tabindex="0"]').focus();
    event.preventDefault();
    event.stopPropagation(); // a notebook would move to its next cell
  });
  new ResizeObserver(() => {
    if (narrow === root.clientWidth < 560) return;
    narrow = !narrow;
    draw();
  }).observe(root);

  const words =
    "Point at a token to follow it; click to stay with it. Arrow keys: ← → for the steps, ↑ ↓ for another " +
    "token. In the plane, drag a point, or move it with the arrow keys.";
  root.append(
    title,
    controls(previous, next, steps),
    choices,
    text.element,
    html("div", { class: "tokens-line" }, html("pre", {}, code), html("div", { class: "ex-caption" }, size, where)),
    row.element,
    rounds,
    html("div", { class: "ex-panels tokens-panels" }, plane, table),
    html("p", { class: "ex-caption" }, words),
  );
  narrow = root.clientWidth < 560;
  choices.open = !narrow;
  draw();
}
