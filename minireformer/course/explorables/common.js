// What all explorables share: elements, controls, the course's colours, and a text that says what can be seen.
// Nothing here has an id, so any number of figures can share a page.

export const PALETTE = {
  letters: "ABCDEFGHIJKLMNOP",
  tokens: ["#7FCDEB", "#C49AD8", "#EDA638", "#4FA3DE", "#DA8DB4", "#3DB39E", "#9ADBE8", "#E8924A",
    "#AF9FE0", "#69C0EA", "#CE8CCB", "#6A9FDC", "#4FBB6E", "#F2C64E", "#E58E9C", "#56B4E9"],
  hues: ["#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2", "#777777"],
  lines: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"],
  backward: "#D55E00",
};

// The colour of a bucket, as plots.bucket_colour mixes it: pale, so that black letters are legible on it.
export function bucketColour(bucket, nBuckets) {
  const { hues } = PALETTE;
  const shade = nBuckets > hues.length && Math.floor(bucket / hues.length) % 2 ? 0.62 : 0.36;
  const hue = hues[bucket % hues.length];
  const mixed = [1, 3, 5].map((at) => Math.round(255 - shade * (255 - parseInt(hue.slice(at, at + 2), 16))));
  return `rgb(${mixed.join(", ")})`;
}

// A number with a comma at each thousand. (toLocaleString takes 10 ms the first time.)
export const grouped = (x) => String(x).replace(/\B(?<!\.\d*)(?=(\d{3})+(?!\d))/g, ",");

// Elements: svg("circle", { r: 3, class: "dot", onclick: f }, child, "text", [more children]).

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function fill(element, attributes, children) {
  set(element, attributes);
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

// Change attributes: null or false removes one, a function listens to an event.
export function set(element, attributes) {
  if ("tabindex" in attributes || element.matches("button, input, select")) {
    element.setAttribute("data-lm-suppress-shortcuts", ""); // or JupyterLab would take the arrow keys to another cell
  }
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value == null || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}

// A drawing that scales with the page: `width` and `height` in its own units. `label` names it for screen readers.
export function drawing(width, height, label, ...children) {
  const attributes = { viewBox: `0 0 ${width} ${height}`, class: "ex-drawing", role: "group", "aria-label": label };
  return svg("svg", { ...attributes, style: `max-width: ${Math.round(1.25 * width)}px` }, ...children);
}

// Controls. Each is { element, value }: put the element on the page, read or set the value.

export function slider({ label, min, max, step = 1, value, onInput, format = String }) {
  const input = html("input", { type: "range", min, max, step, "aria-label": label });
  const shown = html("output", { "aria-hidden": "true" });
  const show = () => {
    shown.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.value = value;
  show();
  input.addEventListener("input", () => {
    show();
    onInput(Number(input.value));
  });
  return {
    element: html("label", { class: "ex-control ex-slider" }, html("span", {}, label), input, shown),
    get value() {
      return Number(input.value);
    },
    set value(next) {
      input.value = next;
      show();
    },
  };
}

export function button(label, onClick) {
  return html("button", { type: "button", class: "ex-button", onclick: onClick }, label);
}

export function toggle({ label, value = false, onInput }) {
  const input = html("input", { type: "checkbox" });
  input.checked = value;
  input.addEventListener("input", () => onInput(input.checked));
  return {
    element: html("label", { class: "ex-control ex-toggle" }, input, html("span", {}, label)),
    get value() {
      return input.checked;
    },
    set value(next) {
      input.checked = next;
    },
  };
}

// `options`: an array of [value, label] pairs. Values come back as they are, numbers as numbers.
export function select({ label, options, value, onInput }) {
  const chosen = () => options[input.selectedIndex][0];
  const input = html("select", { "aria-label": label }, options.map(([, text]) => html("option", {}, text)));
  input.selectedIndex = options.findIndex(([each]) => each === value);
  input.addEventListener("input", () => onInput(chosen()));
  return {
    element: html("label", { class: "ex-control ex-select" }, html("span", {}, label), input),
    get value() {
      return chosen();
    },
    set value(next) {
      input.selectedIndex = options.findIndex(([each]) => each === next);
    },
  };
}

export function controls(...parts) {
  return html("div", { class: "ex-controls" }, parts.map((part) => part.element ?? part));
}

// A text in words, which screen readers read aloud once it has stopped changing.
export function liveText() {
  const shown = html("p", { class: "ex-says" });
  const spoken = html("p", { class: "ex-spoken", "aria-live": "polite" });
  let timer;
  return {
    element: html("div", {}, shown, spoken),
    say(text) {
      shown.textContent = text;
      shown.setAttribute("aria-hidden", "true"); // or it would be read twice
      clearTimeout(timer);
      timer = setTimeout(() => (spoken.textContent = text), 400);
    },
  };
}

// Let an SVG element be moved by pointer and keyboard. `onMove(x, y)` gets the pointer in units of the drawing,
// `onKey(steps, key)` 1 or -1 for an arrow key (10 or -10 with Shift) and its name.
export function movable(element, { label, onMove, onKey }) {
  set(element, { tabindex: 0, role: "slider", "aria-label": label, class: "ex-movable" });
  const at = (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(
      element.ownerSVGElement.getScreenCTM().inverse(),
    );
    onMove(x, y);
  };
  element.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    element.focus();
    element.setPointerCapture(event.pointerId);
    at(event);
  });
  element.addEventListener("pointermove", (event) => element.hasPointerCapture(event.pointerId) && at(event));
  element.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    event.stopPropagation(); // a notebook would move to its next cell
    onKey(direction * (event.shiftKey ? 10 : 1), event.key);
  });
  return element;
}

// Readers who asked their system for less motion see each step at once.
export const lessMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
