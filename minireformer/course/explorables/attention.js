// What a trained model looks at (notebook 09): a real text, and for each byte what a head of LSH attention reads, what
// its buckets hold, and what exact attention would have read. The maths is in attention_maths.js; the vectors and
// buckets were recorded by benchmarks/paper/what_heads_see.py.

import { bucketColour, controls, drawing, html, liveText, select, set, slider, svg } from "./common.js";
import { exactWeights, lshWeights, met, unpackHead } from "./attention_maths.js";

const [COLUMNS, CELL, ROW, TOP] = [32, 10.6, 20, 26];
const PLAIN = { 10: "⏎", 32: "·" }; // how a line break and a space look
const OF_WEIGHTS = "Stronger colour: more weight. LSH attention counts a byte once for each round that meets it.";
const OF_BUCKETS = "Coloured on the left: its whole bucket, later bytes too.";

export function mount(root, { text, file, bits, chunk_len: chunkLen, heads }) {
  const length = text.length;
  const unpacked = []; // those that have been looked at
  const headOf = (i) => (unpacked[i] ??= unpackHead(heads[i], length));
  const nBuckets = (2 * length) / chunkLen;
  const state = { head: heads.length - 1, at: Math.round(0.8 * length), round: -1, kept: false };
  const says = liveText();

  // Two grids of the same bytes

  function grid(label) {
    const title = svg("text", { x: 2, y: 15 }, label);
    const cells = Array.from({ length }, (_, t) => {
      const [x, y] = [(t % COLUMNS) * CELL, TOP + Math.floor(t / COLUMNS) * ROW];
      const code = text.charCodeAt(t);
      const look = { x: x + CELL / 2, y: y + 13, "text-anchor": "middle", class: PLAIN[code] ? "ex-quiet" : "" };
      const paper = svg("rect", { x, y, width: CELL, height: ROW - 3, class: "attention-cell" });
      return svg("g", {}, paper, svg("text", look, PLAIN[code] ?? text[t]));
    });
    const height = TOP + Math.ceil(length / COLUMNS) * ROW;
    const picture = drawing(COLUMNS * CELL + 2, height, label, title, cells);
    picture.classList.add("attention-grid");
    const pointed = (use) => (event) => {
      const t = cells.indexOf(event.target.closest("g"));
      if (t >= 0) use(t);
    };
    set(picture, { onpointerover: pointed((t) => state.kept || moveTo(t)), onpointerdown: pointed(keep) });
    return { picture, title, cells };
  }

  const lsh = grid("LSH attention reads");
  const exact = grid("exact attention would read");

  function paint({ cells }, t, fill, opacity, outline) {
    const style = `fill: ${fill}; fill-opacity: ${opacity}`;
    set(cells[t].firstChild, { style, class: `attention-cell ${outline || ""}` });
    set(cells[t].lastChild, { "font-weight": t === state.at ? "bold" : null });
  }

  function draw() {
    const { at, round } = state;
    const head = headOf(state.head);
    const seen = met(head.buckets, chunkLen, at);
    const [found, truth] = [lshWeights(head, chunkLen, at), exactWeights(head, at)];
    const most = Math.max(...found, ...truth);
    const any = new Set(seen.flat());
    const inRound = new Set(round < 0 ? [] : seen[round]);
    for (let t = 0; t < length; t++) {
      const here = t === at && "attention-here";
      const share = (weight) => Math.sqrt(weight / most).toFixed(3);
      const bucket = round < 0 ? null : head.buckets[round][t];
      const mate = round >= 0 && bucket === head.buckets[round][at];
      if (round < 0) paint(lsh, t, "var(--attention-lsh)", share(found[t]), here);
      else paint(lsh, t, bucketColour(bucket, nBuckets), mate ? 1 : 0, here || (inRound.has(t) && "attention-met"));
      set(lsh.cells[t].lastChild, { style: mate && "fill: #111111" });
      const missed = t < at && !any.has(t) && truth[t] >= 0.01;
      paint(exact, t, "var(--attention-exact)", share(truth[t]), here || (missed && "attention-missed"));
    }
    lsh.title.textContent = round < 0 ? "LSH attention reads" : `round ${round}: its bucket (outlined: what it reads)`;
    about.textContent =
      `${length} bytes of ${file}, which the model never saw in training (its loss there: ${bits} bits a byte). ` +
      `It shows a space as · and a line break as ⏎. ${round < 0 ? OF_WEIGHTS : OF_BUCKETS} ` +
      "Dashed: missed in all rounds, though its exact weight is at least 1 %.";
    say(head, seen, found, truth, any);
  }

  const letter = (t) => ({ 10: "a line break", 32: "a space" })[text.charCodeAt(t)] ?? `“${text[t]}”`;
  const percent = (share) => `${Math.round(100 * share)} %`;

  function say(head, seen, found, truth, any) {
    const { at, round } = state;
    const missed = truth.reduce((sum, weight, t) => sum + (t < at && !any.has(t) ? weight : 0), 0);
    const best = (weights) => weights.indexOf(Math.max(...weights));
    const top = (weights) => {
      const key = best(weights);
      return `${letter(key)}, ${bytes(at - key)} before (${percent(weights[key])})`;
    };
    const inBucket = (r) => head.buckets[r].filter((bucket, t) => t < at && bucket === head.buckets[r][at]).length;
    const bytes = (n, kind = "") => `${n} ${kind}${n === 1 ? "byte" : "bytes"}`;
    const earlier = (n) => bytes(n, "earlier ");
    if (round >= 0) {
      const reads = seen[round].length;
      return says.say(
        `Byte ${at} is ${letter(at)}. In round ${round} it is in bucket ${head.buckets[round][at]}, with ` +
          `${earlier(inBucket(round))}. Its chunk and the one before it hold ${earlier(reads)}, which it reads.`,
      );
    }
    return says.say(
      `Byte ${at} is ${letter(at)}. In ${seen.length} rounds, LSH attention reads ${any.size} of the ${earlier(at)}, ` +
        `most of all ${top(found)}. Exact attention would read most of all ${top(truth)}. LSH misses ` +
        `bytes with ${percent(missed)} of the exact weight.`,
    );
  }

  // A click keeps a byte while the pointer moves on; another click on it lets go.
  function keep(t) {
    state.kept = t !== state.at || !state.kept;
    moveTo(t);
  }

  function moveTo(t) {
    if (t === state.at || t < 1) return;
    state.at = t;
    place.value = t;
    draw();
  }

  const place = slider({ label: "byte", min: 1, max: length - 1, value: state.at, onInput: moveTo });
  const which = select({
    label: "look at",
    options: heads.map(({ layer, head }, i) => [i, `layer ${layer}, head ${head}`]),
    value: state.head,
    onInput: (head) => {
      state.head = head;
      draw();
    },
  });
  const rounds = headOf(state.head).buckets.map((_, round) => [round, `the buckets of round ${round}`]);
  const what = select({
    label: "show",
    options: [[-1, "the weights of all rounds"], ...rounds],
    value: -1,
    onInput: (round) => {
      state.round = round;
      draw();
    },
  });

  const about = html("p", { class: "ex-caption" });
  root.append(
    html("p", { class: "ex-title" }, "What does a trained model read? Point at a byte, or click to keep it."),
    controls(which, what, place),
    html("div", { class: "ex-panels" }, lsh.picture, exact.picture),
    about,
    says.element,
  );
  draw();
}
