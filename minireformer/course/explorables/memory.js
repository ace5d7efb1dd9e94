// The memory bill of one training step (notebooks 00 and 07): four designs, stacked bars, and the GPU that they must
// fit on. The maths is in memory_maths.js.

import { controls, drawing, grouped, html, liveText, select, slider, svg } from "./common.js";
import { DESIGNS, MAX_LEN, longestText, trainingBytes, trainingParts } from "./memory_maths.js";

const GIB = 2 ** 30;
const COLOURS = ["#999999", "#F0E442", "#E69F00", "#009E73", "#56B4E9"]; // of the parts, in their order
const [LEFT, WIDTH, RIGHT, ROW, TOP] = [8, 324, 8, 48, 26];
const CAPTION =
  "Each design adds one change to the one above it: LSH attention, reversible layers, and feed-forward layers in " +
  "chunks. The numbers are for float32, eight heads and d_ff = 4 d_model, without embeddings. A bar with a gap is " +
  "too long to draw; the piece after the gap shows its largest part.";

export function mount(root) {
  const sizes = { length: 2 ** 16, batch: 1, dModel: 1024, nLayers: 12, nRounds: 4 };
  let card = 16;
  const names = Object.keys(DESIGNS);
  const text = liveText();

  const bars = svg("g");
  const picture = drawing(LEFT + WIDTH + RIGHT, TOP + names.length * ROW + 4, "Memory of four designs", bars);
  picture.style.maxWidth = "460px";
  const table = html("table", { class: "memory-table" });

  const gib = (bytes) => {
    const value = bytes / GIB;
    if (value > 0 && value < 0.01) return "< 0.01";
    const digits = value >= 9.95 || value === 0 ? 0 : value >= 0.995 ? 1 : 2;
    return grouped(value.toFixed(digits));
  };

  function tokens(length) {
    if (length < 1024) return `${length}`;
    return length < 2 ** 20 ? `${Math.round(length / 1024)}K` : `${Number((length / 2 ** 20).toPrecision(2))}M`;
  }

  // The card is always a third of the way along, so a longer bar than three cards is cut. Its largest part may begin
  // behind the cut, so that is what the end shows.
  function drawBars() {
    const scale = WIDTH / (3 * card * GIB);
    bars.replaceChildren(...names.map((name, row) => bar(name, row, scale)), cardLine());
  }

  function bar(name, row, scale) {
    const y = TOP + row * ROW;
    const parts = trainingParts(sizes, DESIGNS[name]);
    const total = trainingBytes(sizes, DESIGNS[name]);
    const fits = total <= card * GIB;
    const verdict = `${gib(total)} GiB ${fits ? "✓ fits" : "✗ does not fit"}`;
    const cut = total * scale > WIDTH;
    let x = LEFT;
    const pieces = parts.map(([, bytes], i) => {
      const width = Math.min(bytes * scale, LEFT + WIDTH - x);
      const piece = svg("rect", { x, y: y + 18, width, height: 20, fill: COLOURS[i], class: "memory-part" });
      x += width;
      return piece;
    });
    const end = LEFT + WIDTH;
    const largest = parts.indexOf(largestOf(parts));
    const last = { x: end - 48, y: y + 18, width: 48, height: 20, fill: COLOURS[largest], class: "memory-part" };
    const torn = `M ${end - 55} ${y + 40} l 7 -24 l 7 0 l -7 24 Z`;
    return svg(
      "g",
      { role: "img", "aria-label": `${name}: ${gib(total)} GiB, which ${fits ? "fits" : "does not fit"}` },
      svg("text", { x: LEFT, y: y + 11, class: "memory-name" }, name),
      svg("text", { x: end, y: y + 11, "text-anchor": "end", class: fits ? "" : "ex-warn" }, verdict),
      pieces,
      cut && [svg("rect", last), svg("path", { d: torn, class: "memory-torn" })],
    );
  }

  const largestOf = (parts) => parts.reduce((most, part) => (part[1] > most[1] ? part : most));

  function cardLine() {
    const x = LEFT + WIDTH / 3;
    const line = svg("line", { x1: x, x2: x, y1: 14, y2: TOP + names.length * ROW, class: "memory-card" });
    return svg("g", {}, line, svg("text", { x, y: 10, "text-anchor": "middle" }, `GPU memory: ${card} GiB`));
  }

  function drawTable() {
    const columns = names.map((name) => trainingParts(sizes, DESIGNS[name]));
    const cells = (values) => values.map((value) => html("td", {}, value));
    const row = (label, values) => html("tr", {}, html("th", { scope: "row" }, label), cells(values));
    const head = html("tr", {}, ["GiB", ...names].map((name) => html("th", { scope: "col" }, name)));
    const swatch = (i) => html("span", { class: "memory-swatch", style: `background: ${COLOURS[i]}` });
    const parts = columns[0].map(([label], i) => row([swatch(i), label], columns.map((column) => gib(column[i][1]))));
    const totals = row("altogether", names.map((name) => gib(trainingBytes(sizes, DESIGNS[name]))));
    const longest = names.map((name) => {
      const length = longestText(sizes, DESIGNS[name], card * GIB);
      return length < MAX_LEN ? tokens(length) : `over ${tokens(MAX_LEN)}`; // the search ends there
    });
    const last = row("tokens that would fit", longest);
    table.replaceChildren(html("thead", {}, head), html("tbody", {}, parts, totals, last));
  }

  function say() {
    const total = (name) => trainingBytes(sizes, DESIGNS[name]);
    const fitting = names.filter((name) => total(name) <= card * GIB);
    const [largest, bytes] = largestOf(trainingParts(sizes, DESIGNS.Transformer));
    const share = bytes > total("Transformer") / 2 ? "most of it" : "above all";
    let verdict = `On a GPU of ${card} GiB, the first of the four that fits is “${fitting[0]}”.`;
    if (!fitting.length) verdict = `Not even the Reformer fits on a GPU of ${card} GiB.`;
    if (fitting[0] === "Transformer") verdict = `Even the plain Transformer fits on a GPU of ${card} GiB.`;
    text.say(
      `A plain Transformer needs ${gib(total("Transformer"))} GiB, ${share} for ${largest}. ` +
        `The Reformer, with all three changes, needs ${gib(total("+ chunks"))} GiB. ${verdict}`,
    );
  }

  function draw() {
    drawBars();
    drawTable();
    say();
  }

  // A slider over powers of two.
  function powers(label, name, first, last, format = grouped) {
    const value = Math.log2(sizes[name]);
    const onInput = (power) => {
      sizes[name] = 2 ** power;
      draw();
    };
    return slider({ label, min: first, max: last, value, onInput, format: (power) => format(2 ** power) });
  }

  function counts(label, name, max) {
    const onInput = (value) => {
      sizes[name] = value;
      draw();
    };
    return slider({ label, min: 1, max, value: sizes[name], onInput });
  }

  const cards = select({
    label: "GPU memory",
    options: [8, 16, 24, 40, 80, 141].map((size) => [size, `${size} GiB`]),
    value: card,
    onInput: (value) => {
      card = value;
      draw();
    },
  });

  const named = { role: "region", "aria-label": "The bill in numbers" };
  const bill = html("div", { class: "memory-scroll", tabindex: 0, ...named }, table);

  root.append(
    html("p", { class: "ex-title" }, "What does one training step need, and does it fit?"),
    controls(
      powers("tokens", "length", 8, 20, tokens),
      counts("layers", "nLayers", 48),
      powers("width d_model", "dModel", 7, 12),
      powers("batch", "batch", 0, 6),
      counts("hash rounds", "nRounds", 8),
      cards,
    ),
    html("div", { class: "ex-panels" }, html("div", {}, picture), bill),
    html("p", { class: "ex-caption" }, CAPTION),
    text.element,
  );
  draw();
}
