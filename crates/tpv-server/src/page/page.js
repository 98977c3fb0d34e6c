"use strict";

const $ = (id) => document.getElementById(id);
const store = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* private windows forget */ } },
};
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600, HEIGHT = 190, LEFT = 34, RIGHT = 592, TOP = 10, BASE = 118, ALPHA_TOP = 134, ALPHA_BASE = 172;
const WORDS = { unknown: "reading …", thinking: "thinking", nearly_done: "nearly done", stuck: "stuck?", over_budget: "over budget", done: "thought out", failed: "failed", stopped: "stopped" };

let apiKey = "";
let modelName = "";
let lanes = [];

function headers() {
  const all = { "content-type": "application/json" };
  if (apiKey) all.authorization = `Bearer ${apiKey}`;
  return all;
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `the server answered ${response.status}`);
}

function warn(text) {
  $("warning").hidden = !text;
  $("warning").textContent = text ?? "";
}

/* ---- the model and its vector ---- */

async function connect() {
  let response;
  try { response = await fetch("/v1/models", { headers: headers() }); }
  catch { $("model").textContent = "the server does not answer; trying again"; setTimeout(connect, 2000); return; }
  if (response.status === 503) { $("model").textContent = "loading the model …"; setTimeout(connect, 700); return; }
  if (response.status === 401) { $("model").textContent = "locked"; $("key-form").hidden = false; $("key").focus(); return; }
  if (!response.ok) { warn((await failure(response)).message); return; }
  $("key-form").hidden = true;
  const model = (await response.json()).data[0];
  modelName = model.id;
  $("model").textContent = `${model.id} · ${model.tpv.dtype}`;
  showExamples(model.tpv.examples);
  showVector(model.tpv.vector);
}

function showExamples(examples) {
  $("examples").replaceChildren(...examples.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.title = text;
    button.addEventListener("click", () => { $("prompt").value = text; $("prompt").focus(); });
    return button;
  }));
  if (!$("prompt").value && examples.length) $("prompt").value = examples[0];
}

function showVector(vector) {
  const place = $("vector");
  place.replaceChildren();
  if (!vector) {
    warn("This model has no vector, so neither progress nor the throttle work. Make one with: tpv learn");
    $("alpha").disabled = true;
    $("race").disabled = true;
    return;
  }
  warn(vector.warnings.length ? `This vector may not belong to this model: ${vector.warnings.join(" ")}` : "");
  const facts = [
    ["Made for", vector.model || "unknown"],
    ["Trained on", `${vector.dataset || "unknown data"}: ${vector.traces} thoughts, ${vector.rows} tokens`],
    ["Calibrated", vector.calibrated ? "yes: percent and time left come with a 90 % interval" : "no: progress is smoothed only, and no time left is claimed"],
    ["One unit of alpha", `moves the logit of </think> by ${vector.think_end_shift_per_alpha.toFixed(3)} against the average token`],
  ];
  const efforts = Object.entries(vector.efforts).map(([name, alpha]) => `${name} ${alpha}`);
  if (efforts.length) facts.push(["Effort levels", efforts.join(", ")]);
  place.append(table([], facts));
  const rows = (vector.figures?.test ?? []).map((row) => [row.predictor, interval(row.figures?.mae), interval(row.figures?.r2)]);
  if (rows.length) {
    const note = document.createElement("p");
    note.className = "muted";
    note.textContent = "Measured on held-out problems, beside the baselines (95 % intervals): mean absolute error of progress, and share of variance explained.";
    place.append(note, table(["Predictor", "Error", "R²"], rows));
  }
}

function interval(figure) {
  if (!figure || figure.value == null) return "–";
  return `${figure.value.toFixed(3)} (${figure.low.toFixed(3)} to ${figure.high.toFixed(3)})`;
}

function table(head, rows) {
  const element = document.createElement("table");
  const line = (cells, first, other) => {
    const row = document.createElement("tr");
    cells.forEach((text, place) => {
      const cell = document.createElement(place ? other : first);
      cell.textContent = text;
      row.append(cell);
    });
    element.append(row);
  };
  if (head.length) line(head, "th", "th");
  rows.forEach((cells) => line(cells, "th", "td"));
  return element;
}

/* ---- one thought ---- */

class Lane {
  constructor(title, body) {
    this.body = body;
    this.title = title;
    this.steps = [];
    this.pieces = [];
    this.answer = "";
    this.abort = new AbortController();
    this.drawn = 0;
    this.announced = -1;
    this.root = $("lane").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.find("h2").textContent = title;
    const thought = this.find(".thought");
    thought.open = store.get("thought") !== "closed";
    thought.addEventListener("toggle", () => store.set("thought", thought.open ? "open" : "closed"));
    for (const button of this.root.querySelectorAll("[data-export]")) button.addEventListener("click", () => this.export(button));
    $("lanes").append(this.root);
    this.draw();
  }

  async run() {
    this.state = "thinking";
    try {
      const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(this.body), signal: this.abort.signal });
      if (!response.ok) throw await failure(response);
      await this.read(response.body);
      this.state = this.state === "thinking" ? "done" : this.state;
    } catch (error) {
      this.state = this.abort.signal.aborted ? "stopped" : "failed";
      if (this.state === "failed") this.answer = error.message;
    }
    this.draw();
    this.find(".export").hidden = this.steps.length === 0;
  }

  async read(stream) {
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: {")) this.take(JSON.parse(line.slice(6)));
    }
  }

  take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    this.id = chunk.id;
    const delta = chunk.choices[0]?.delta ?? {};
    const tpv = chunk.tpv;
    if (tpv?.summary) this.summary = tpv.summary;
    else if (tpv?.phase === "thinking") this.steps.push(tpv);
    if (delta.reasoning) this.pieces.push([delta.reasoning, tpv?.progress]);
    if (delta.content) this.answer += delta.content;
    this.schedule();
  }

  schedule() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.draw(); });
  }

  draw() {
    this.drawBar();
    this.drawTrace();
    const words = this.find(".words");
    const atEnd = words.scrollTop + words.clientHeight >= words.scrollHeight - 8;
    for (const [text, progress] of this.pieces.slice(this.drawn)) {
      const span = document.createElement("span");
      span.textContent = text;
      span.className = `p${Math.min(9, Math.floor((progress ?? 0) * 10))}`;
      words.append(span);
    }
    this.drawn = this.pieces.length;
    if (atEnd) words.scrollTop = words.scrollHeight;
    this.find(".answer").textContent = this.answer.trim();
  }

  drawBar() {
    const step = this.steps.at(-1);
    const bar = this.find(".bar");
    const ended = this.summary?.thinking_ended || step?.verdict === "done";
    const progress = ended ? 1 : step?.progress;
    const verdict = this.state === "failed" || this.state === "stopped" ? this.state : ended ? "done" : step?.verdict ?? "unknown";
    this.find(".verdict").dataset.verdict = verdict;
    this.find(".verdict").textContent = this.state ? WORDS[verdict] : "waiting";
    bar.classList.toggle("done", Boolean(ended));
    if (progress == null) { bar.removeAttribute("aria-valuenow"); }
    else {
      const percent = Math.round(progress * 100);
      bar.setAttribute("aria-valuenow", percent);
      this.find(".fill").style.width = `${percent}%`;
      this.find(".percent").textContent = `${percent} %`;
      this.announce(percent, verdict);
    }
    const left = ended ? null : step?.remaining_tokens;
    const band = this.find(".band");
    if (left) {
      const share = (tokens) => 100 * step.thinking_tokens / (step.thinking_tokens + Math.max(0, tokens));
      band.style.left = `${share(left.high)}%`;
      band.style.width = `${share(left.low) - share(left.high)}%`;
    } else band.style.width = "0";
    this.find(".eta").textContent = this.eta(step, ended);
    const tokens = this.summary?.thinking_tokens ?? step?.thinking_tokens ?? 0;
    this.find(".tokens").textContent = tokens ? `${tokens} thinking tokens` : "";
    bar.setAttribute("aria-valuetext", `${this.find(".percent").textContent} ${this.find(".eta").textContent}`);
  }

  eta(step, ended) {
    if (ended) return this.summary ? `thought for ${seconds(this.summary.thinking_secs)}` : "answering …";
    const secs = step?.remaining_secs, tokens = step?.remaining_tokens;
    if (secs) return `about ${seconds(secs.value)} left (${seconds(secs.low)} to ${seconds(secs.high)})`;
    return tokens ? `about ${Math.round(tokens.value)} tokens left (${Math.round(tokens.low)} to ${Math.round(tokens.high)})` : "";
  }

  /* Every tenth only, so that a screen reader is not flooded. */
  announce(percent, verdict) {
    const tenth = Math.floor(percent / 10);
    if (tenth === this.announced) return;
    this.announced = tenth;
    $("live").textContent = `${this.title}: ${percent} percent, ${WORDS[verdict]}`;
  }

  drawTrace() {
    const svg = this.find(".trace");
    svg.replaceChildren(...this.marks());
  }

  marks() {
    const last = this.steps.at(-1);
    const expected = last ? last.thinking_tokens + (last.verdict === "done" ? 0 : last.remaining_tokens?.value ?? 0) : 100;
    const most = Math.max(20, expected);
    const x = (step) => LEFT + (RIGHT - LEFT) * step.thinking_tokens / most;
    const y = (value) => BASE - (BASE - TOP) * (Math.min(1.25, Math.max(-.25, value)) + .25) / 1.5;
    const alphas = this.steps.map((step) => step.alpha);
    const high = Math.max(10, ...alphas), low = Math.min(0, ...alphas);
    const z = (alpha) => ALPHA_BASE - (ALPHA_BASE - ALPHA_TOP) * (alpha - low) / (high - low);
    const path = (name, d) => shape("path", { class: name, d });
    const known = this.steps.filter((step) => step.progress != null);
    const joined = (points) => points.map((point, place) => `${place ? "L" : "M"}${point}`).join("");
    const at = (h, v) => `${h.toFixed(1)} ${v.toFixed(1)}`;
    const marks = [0, .5, 1].flatMap((value) => [
      shape("line", { class: "grid", x1: LEFT, x2: RIGHT, y1: y(value), y2: y(value) }),
      label(4, y(value) + 4, `${value * 100}%`),
    ]);
    marks.push(shape("line", { class: "grid", x1: LEFT, x2: RIGHT, y1: z(0), y2: z(0) }), label(4, ALPHA_TOP + 8, `α ${Math.round(high)}`));
    marks.push(label(LEFT, HEIGHT - 3, "token 1"), label(RIGHT, HEIGHT - 3, `${Math.round(most)}`, "end"));
    marks.push(path("dots", this.steps.filter((step) => step.raw != null).map((step) => `M${at(x(step), y(step.raw))}h0`).join("")));
    marks.push(path("line", joined(known.map((step) => at(x(step), y(step.progress))))));
    marks.push(path("steps", this.steps.map((step, place) => place ? `H${x(step).toFixed(1)}V${z(step.alpha).toFixed(1)}` : `M${at(x(step), z(step.alpha))}`).join("")));
    return marks;
  }

  export(button) {
    const kind = button.dataset.export;
    if (kind === "json") return download("trace.json", "application/json", JSON.stringify({ version: 1, request: this.body, steps: this.steps, summary: this.summary, thought: this.pieces.map(([text]) => text).join(""), answer: this.answer }, null, 1));
    if (kind === "svg") return download("trace.svg", "image/svg+xml", this.picture());
    const quoted = JSON.stringify(this.body).replaceAll("'", "'\\''");
    const key = apiKey ? " -H \"Authorization: Bearer $TPV_API_KEY\"" : "";
    const command = `curl -N ${location.origin}/v1/chat/completions -H 'Content-Type: application/json'${key} -d '${quoted}'`;
    if (!navigator.clipboard) return download("request.sh", "text/plain", command + "\n");
    navigator.clipboard.writeText(command).then(
      () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "curl"; }, 1500); },
      () => download("request.sh", "text/plain", command + "\n"));
  }

  /* The trace as a file of its own, with the colours of the moment written into it. */
  picture() {
    const from = this.find(".trace"), copy = from.cloneNode(true);
    copy.setAttribute("xmlns", SVG);
    copy.setAttribute("width", WIDTH);
    copy.setAttribute("height", HEIGHT);
    const originals = from.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((element, place) => {
      const style = getComputedStyle(originals[place]);
      for (const name of ["stroke", "stroke-width", "stroke-linecap", "fill", "font"]) element.setAttribute(name, style.getPropertyValue(name));
    });
    return new XMLSerializer().serializeToString(copy);
  }
}

function seconds(value) {
  if (value >= 90) return `${Math.round(value / 60)} min`;
  return value >= 10 ? `${Math.round(value)} s` : `${value.toFixed(1)} s`;
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

function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/* ---- asking ---- */

function alpha() { return Number($("alpha").value); }

function request(strength) {
  const body = { model: modelName, messages: [{ role: "user", content: $("prompt").value }], stream: true, seed: Number($("seed").value) || 0 };
  body.tpv = { progress: true };
  if (!$("alpha").disabled) body.tpv.policy = `constant:${strength}`;
  return body;
}

async function start(strengths) {
  stop();
  if (!$("prompt").value.trim()) { $("prompt").focus(); return; }
  $("lanes").replaceChildren();
  $("lanes").classList.toggle("two", strengths.length > 1);
  lanes = strengths.map((strength, place) => {
    const name = strengths.length === 1 ? "Thought" : place === 0 ? "alpha 0" : `alpha ${strength}`;
    return new Lane(name, request(strength));
  });
  const mine = lanes;
  busy(true);
  await Promise.all(mine.map((lane) => lane.run()));
  if (mine !== lanes) return;
  busy(false);
  if (mine.length === 2) finishRace(mine);
}

function finishRace([base, pushed]) {
  if (!base.summary || !pushed.summary) return;
  const from = base.summary.thinking_tokens, to = pushed.summary.thinking_tokens;
  const change = Math.round(100 * (1 - to / from));
  $("live").textContent = `${to} against ${from} thinking tokens`;
  pushed.find("h2").textContent += change >= 0 ? ` · ${change} % shorter` : ` · ${-change} % longer`;
}

function busy(is) {
  $("end").disabled = !is;
  $("stop").disabled = !is;
}

function stop() { lanes.forEach((lane) => lane.abort.abort()); }

async function control(lane, change) {
  if (!lane.id || lane.state !== "thinking") return;
  const response = await fetch("/v1/chat/completions/control", { method: "POST", headers: headers(), body: JSON.stringify({ id: lane.id, ...change }) });
  if (!response.ok && response.status !== 404) warn((await failure(response)).message);
}

let waiting = null;
function throttle() {
  const value = alpha();
  $("alpha-value").textContent = value;
  $("race-label").textContent = `0 against ${value === 0 ? 15 : value}`;
  clearTimeout(waiting);
  /* In a race the first lane stays at 0. */
  waiting = setTimeout(() => { const lane = lanes.at(-1); if (lane) control(lane, { alpha: value }); }, 40);
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); start([alpha()]); });
$("race").addEventListener("click", () => start([0, alpha() === 0 ? 15 : alpha()]));
$("end").addEventListener("click", () => lanes.forEach((lane) => control(lane, { end_thinking: true })));
$("stop").addEventListener("click", stop);
$("alpha").addEventListener("input", throttle);
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); apiKey = $("key").value.trim(); connect(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("ask").requestSubmit(); }
});
connect();
