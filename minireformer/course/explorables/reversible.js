// Reversible blocks (notebook 06): forward fills in the activations, you drop them, and backward rebuilds them beside
// the gradient. Every number is computed, in the type that you choose; the maths is in reversible_maths.js.

import { button, controls, drawing, html, lessMotion, liveText, select, set, slider, svg, toggle } from "./common.js";
import { ROUND, TOKENS, WIDTH, makeBlocks, steps, thereAndBack } from "./reversible_maths.js";

const START = steps(1, TOKENS * WIDTH); // the tokens' vectors, the same in every type
const GRADIENT = [2, 3].map((seed) => steps(seed, TOKENS * WIDTH)); // of the last pair of streams
const COLUMNS = { kept: 46, rebuilt: 147, gradient: 248 }; // where they start
const [CELL, TOP, HEIGHT] = [6, 44, 300];
const [LEAST, MOST] = [-18.5, 1]; // powers of ten on the axis of errors
const [PLOT_LEFT, PLOT_WIDTH] = [24, 284];
const AXIS = [[0, "0"], [1e-16, "10⁻¹⁶"], [1e-12, "10⁻¹²"], [1e-8, "10⁻⁸"], [1e-4, "10⁻⁴"], [1, "1"], [NaN, "∞"]];
const CAPTION =
  "Each strip is the pair of streams (x₁, x₂) between two blocks, drawn as one number for each of sixteen tokens: " +
  "blue is positive, orange negative; in gradients, pink and green. Black means overflow. Faded strips have been " +
  "dropped again, as backward needs only one pair at a time.";

export function mount(root) {
  const settings = { type: "float32", depth: 8, norm: true, dropout: false, anotherSeed: false };
  let found; // all numbers of the settings, computed at once and shown step by step
  let phase = "start"; // then "kept", "dropped"
  let filled = 0; // in "kept", blocks that forward has passed; in "dropped", blocks that backward has passed
  let timer;
  const text = liveText();

  function compute() {
    found = thereAndBack(START, GRADIENT, makeBlocks(settings.depth), { ...settings, round: ROUND[settings.type] });
  }

  // Streams before block n, with block 0 at the bottom

  const rowHeight = () => Math.min(HEIGHT / (settings.depth + 1), 60);
  const rowY = (n) => TOP + (settings.depth - n) * rowHeight();

  function strip(left, n, pair, colours, look) {
    const height = Math.max(rowHeight() - 3, 4);
    const frame = { x: left, y: rowY(n), width: TOKENS * CELL, height };
    if (!pair) return svg("rect", { ...frame, class: "reversible-empty" });
    const first = Array.from({ length: TOKENS }, (_, t) => pair[0][t * WIDTH]); // one number of every token
    const size = Math.sqrt(first.reduce((sum, value) => sum + value * value, 0) / TOKENS);
    const cells = first.map((value, t) => {
      const shade = Math.min(Math.abs(value / size) / 2, 1);
      const fill = Number.isFinite(shade) ? (value < 0 ? colours[0] : colours[1]) : "#000000";
      const opacity = Number.isFinite(shade) ? shade.toFixed(2) : 1;
      return svg("rect", { ...frame, x: left + t * CELL, width: CELL, fill, "fill-opacity": opacity });
    });
    const [paper, border] = ["paper", "frame"].map((name) => svg("rect", { ...frame, class: `reversible-${name}` }));
    return svg("g", { class: look }, paper, cells, border);
  }

  const BLUES = ["#D55E00", "#0072B2"];
  const PINKS = ["#009E73", "#CC79A7"];
  const current = () => settings.depth - filled; // where backward is

  function row(n) {
    const { depth } = settings;
    const isKept = phase === "kept" ? n <= filled : phase === "dropped" && n === depth && filled === 0;
    const isRebuilt = phase === "dropped" && n < depth && n >= current();
    const hasGradient = phase === "dropped" && n >= current();
    const look = n === current() ? "" : "reversible-pale";
    const numbered = n === 0 || n === depth || (n % 4 === 0 && depth - n > 1);
    const middle = { y: rowY(n) + rowHeight() / 2 - 1, dy: "0.33em" };
    return svg(
      "g",
      {},
      numbered && svg("text", { x: 32, ...middle, "text-anchor": "end", class: "ex-small" }, n === depth ? "end" : n),
      strip(COLUMNS.kept, n, isKept && found.kept[n], BLUES, ""),
      strip(COLUMNS.rebuilt, n, isRebuilt && found.rebuilt[n], BLUES, look),
      strip(COLUMNS.gradient, n, hasGradient && found.gradients[n], PINKS, look),
    );
  }

  const stack = svg("g");
  const heading = (x, words, y) => svg("text", { x, y, class: "ex-small" }, words);
  const headings = [
    heading(0, "before", 18),
    heading(0, "block", 34),
    heading(COLUMNS.kept, "kept by", 18),
    heading(COLUMNS.kept, "forward", 34),
    heading(COLUMNS.rebuilt, "rebuilt by", 18),
    heading(COLUMNS.rebuilt, "backward", 34),
    heading(COLUMNS.gradient, "its gradient", 34),
  ];
  const picture = drawing(344, TOP + HEIGHT + 6, "The stack of blocks", headings, stack);

  // Errors, in the same rows

  const plot = svg("g");
  const chart = drawing(344, TOP + HEIGHT + 6, "Relative error against the block", plot);
  const across = (error) => {
    if (Number.isNaN(error)) return PLOT_LEFT + PLOT_WIDTH + 20;
    const power = Math.min(Math.max(Math.log10(error), LEAST), MOST);
    return PLOT_LEFT + ((power - LEAST) / (MOST - LEAST)) * PLOT_WIDTH;
  };

  function drawChart() {
    const { depth } = settings;
    const bottom = rowY(0) + rowHeight();
    const marks = AXIS.map(([error, label]) => {
      const x = across(error);
      const line = svg("line", { x1: x, x2: x, y1: TOP - 4, y2: bottom, class: "reversible-grid" });
      return svg("g", {}, line, svg("text", { x, y: 34, "text-anchor": "middle", class: "ex-small" }, label));
    });
    const dots = [];
    for (let n = depth - 1; phase === "dropped" && n >= current(); n--) {
      const y = rowY(n) + rowHeight() / 2 - 1;
      const [cx, x] = [across(found.streamErrors[n]), across(found.gradientErrors[n]) - 3.5];
      dots.push(svg("circle", { cx, cy: y, r: 4.5, class: "reversible-of-streams" }));
      dots.push(svg("rect", { x, y: y - 3.5, width: 7, height: 7, class: "reversible-of-gradient" }));
    }
    const streams = svg("tspan", { class: "reversible-of-streams" }, "● rebuilt  ");
    const gradient = svg("tspan", { class: "reversible-of-gradient" }, "■ gradient");
    plot.replaceChildren(svg("text", { x: 4, y: 14 }, "relative error: ", streams, gradient), ...marks, ...dots);
  }

  // What is in memory, in words

  function say() {
    const { depth, type } = settings;
    const pairs = (n) => `${n} ${n === 1 ? "pair" : "pairs"} of streams`;
    if (phase === "start") return text.say("Nothing is in memory but the input. Press Forward.");
    if (phase === "kept") {
      const more = filled < depth ? "" : " An ordinary stack would keep them all for backward. Press Drop activations.";
      return text.say(`Forward has passed ${filled} of ${depth} blocks: ${pairs(filled + 1)} in memory.${more}`);
    }
    if (filled === 0) {
      return text.say("Only the last pair of streams is left. Backward starts from it. Press One block back.");
    }
    const n = current();
    const [ofStreams, ofGradient] = [found.streamErrors[n], found.gradientErrors[n]].map(inWords);
    const rebuilt = `Backward has rebuilt the input of block ${n} in ${type}`;
    if (Number.isNaN(found.streamErrors[n])) return text.say(`${rebuilt}, and numbers have overflowed: all is lost.`);
    return text.say(
      `${rebuilt}: its relative error is ${ofStreams}, that of the ` +
        `gradient ${ofGradient}. ${verdict(found.gradientErrors[n])} In memory: ${pairs(1)} and its gradient.`,
    );
  }

  function inWords(error) {
    if (Number.isNaN(error)) return "beyond all bounds, because numbers overflowed";
    if (error === 0) return "exactly 0";
    if (error >= 0.01) return error < 10 ? `${Math.round(100 * error)} %` : "over 1,000 %";
    const [digit, power] = error.toExponential(0).split("e-");
    return `${digit}\u00a0×\u00a010⁻${[...power].map((each) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[each]).join("")}`; // as on the axis
  }

  function verdict(error) {
    if (!(error < 0.01)) return "That gradient is wrong, and no error is raised.";
    return error < 1e-4 ? "That is good enough to train with." : "That is getting rough.";
  }

  // Steps

  function draw() {
    const { depth } = settings;
    stack.replaceChildren(...Array.from({ length: depth + 1 }, (_, n) => row(n)));
    drawChart();
    set(ahead, { disabled: phase !== "start" });
    set(drop, { disabled: phase !== "kept" });
    set(one, { disabled: phase !== "dropped" || filled === depth });
    set(all, { disabled: phase !== "dropped" || filled === depth });
    say();
  }

  function run(pause) {
    clearTimeout(timer);
    filled = lessMotion() ? settings.depth : filled + 1;
    draw();
    if (filled < settings.depth) timer = setTimeout(() => run(pause), pause);
  }

  function go(next) {
    clearTimeout(timer);
    [phase, filled] = [next, 0];
    draw();
  }

  const ahead = button("Forward", () => {
    phase = "kept";
    run(60);
    drop.focus();
  });
  const drop = button("Drop activations", () => {
    go("dropped");
    one.focus();
  });
  const one = button("One block back", () => {
    clearTimeout(timer);
    filled += 1;
    draw();
    if (filled === settings.depth) again.focus();
  });
  const all = button("All the way back", () => {
    run(120);
    again.focus();
  });
  const again = button("Start again", () => {
    go("start");
    ahead.focus();
  });

  // Another setting shows the same moment again, unless the depth is another one.
  function change(next) {
    clearTimeout(timer);
    const finished = filled === settings.depth;
    Object.assign(settings, next);
    if (finished || filled > settings.depth) filled = settings.depth;
    compute();
    draw();
  }

  const depth = slider({
    label: "blocks",
    min: 1,
    max: 24,
    value: settings.depth,
    onInput: (n) => change({ depth: n }),
  });
  const type = select({
    label: "data type",
    options: Object.keys(ROUND).map((name) => [name, name]),
    value: settings.type,
    onInput: (name) => change({ type: name }),
  });
  const norm = toggle({ label: "LayerNorm", value: true, onInput: (on) => change({ norm: on }) });
  const dropout = select({
    label: "dropout",
    options: [["none", "none"], ["same", "same seed in backward"], ["another", "another seed in backward"]],
    value: "none",
    onInput: (choice) => change({ dropout: choice !== "none", anotherSeed: choice === "another" }),
  });

  root.append(
    html("p", { class: "ex-title" }, "Forward, drop, rebuild: how exactly do the activations come back?"),
    controls(depth, type, norm, dropout),
    controls(ahead, drop, one, all, again),
    text.element,
    html("div", { class: "ex-panels" }, picture, chart),
    html("p", { class: "ex-caption" }, CAPTION),
  );
  compute();
  draw();
}
