/* The trace: raw readings as dots, progress as a line, alpha as steps beneath, over the thinking tokens. */

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 220, LEFT = 44, TOP = 12, BASE = 146, ALPHA_TOP = 164, ALPHA_BASE = 196;

/* Tokens that the thought has had and, unless it is over, may still have. */
export function expectedTokens(steps, over) {
  const last = steps.at(-1);
  if (!last) return 0;
  return last.thinking_tokens + (over ? 0 : last.remaining_tokens?.value ?? 0);
}

/* Draws the steps in a picture as wide as its place, so that letters keep their size; `most` tokens fill the width. */
export function drawTrace(svg, steps, most) {
  const width = Math.max(260, Math.round(svg.clientWidth || 600));
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("height", HEIGHT);
  svg.replaceChildren(...marks(steps, Math.max(20, most), width));
}

function marks(steps, most, width) {
  const right = width - 4;
  const alphas = steps.map((step) => step.alpha);
  const high = Math.max(10, ...alphas), low = Math.min(0, ...alphas);
  const x = (step) => LEFT + (right - LEFT) * step.thinking_tokens / most;
  const y = (value) => BASE - (BASE - TOP) * (Math.min(1.25, Math.max(-.25, value)) + .25) / 1.5;
  const z = (alpha) => ALPHA_BASE - (ALPHA_BASE - ALPHA_TOP) * (alpha - low) / (high - low);
  const at = (h, v) => `${h.toFixed(1)} ${v.toFixed(1)}`;
  const grid = (v) => shape("line", { class: "grid", x1: LEFT, x2: right, y1: v, y2: v });
  const path = (name, d) => shape("path", { class: name, d });
  const dots = steps.filter((step) => step.raw != null).map((step) => `M${at(x(step), y(step.raw))}h0`);
  const line = steps.filter((step) => step.progress != null).map((step) => at(x(step), y(step.progress)));
  const stairs = steps.map((step, place) => place ? `H${x(step).toFixed(1)}V${z(step.alpha).toFixed(1)}` : `M${at(x(step), z(step.alpha))}`);
  const head = line.length ? [path("head", `M${line.at(-1)}h0`)] : [];
  return [
    ...[0, .5, 1].flatMap((value) => [grid(y(value)), label(LEFT - 8, y(value) + 4, `${value * 100}%`, "end")]),
    grid(z(0)), label(LEFT - 8, z(0) + 4, "0", "end"), label(LEFT - 8, ALPHA_TOP + 4, `α ${Math.round(high)}`, "end"), ...(low < 0 ? [label(LEFT - 8, ALPHA_BASE + 4, `α ${Math.round(low)}`, "end")] : []),
    label(LEFT, HEIGHT - 4, "token 1"), label(right, HEIGHT - 4, `${Math.round(most)}`, "end"),
    path("dots", dots.join("")), path("line", line.length ? `M${line.join("L")}` : ""), path("steps", stairs.join("")), ...head,
  ];
}

/* The trace as a file of its own, with the colours of the moment written into it. */
export function picture(svg) {
  const copy = svg.cloneNode(true);
  const [, , width, height] = svg.getAttribute("viewBox").split(" ");
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const originals = svg.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, place) => {
    const style = getComputedStyle(originals[place]);
    for (const name of ["stroke", "stroke-width", "stroke-linecap", "fill", "font"]) element.setAttribute(name, style.getPropertyValue(name));
  });
  return new XMLSerializer().serializeToString(copy);
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function label(x, y, text, anchor = "start") {
  const element = shape("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}
