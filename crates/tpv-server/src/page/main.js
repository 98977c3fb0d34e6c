/* The page: asks, races, and turns the throttle. */

import { failure, get, hasKey, useKey } from "./api.js";
import { $, announce, make, warn } from "./dom.js";
import { Lane } from "./lane.js";
import { showVector } from "./vector.js";

const RACE_ALPHA = 15;
let model = null;
let lanes = [];
let retry = null;

/* ---- the model ---- */

async function connect() {
  clearTimeout(retry);
  const later = (text, wait) => { $("model").textContent = text; retry = setTimeout(connect, wait); };
  let response;
  try { response = await get("/v1/models"); }
  catch { return later("the server does not answer; trying again", 2000); }
  if (response.status === 503) {
    const { code, message } = await failure(response);
    return later(code === "loading" ? "loading the model …" : message, 700);
  }
  $("key-form").hidden = response.status !== 401;
  if (response.status === 401) return locked();
  if (!response.ok) { warn("server", (await failure(response)).message); return; }
  warn("server", "");
  model = (await response.json()).data[0];
  $("model").textContent = `${model.id} · ${model.tpv.dtype}`;
  showExamples(model.tpv.examples);
  showVector(model.tpv.vector);
}

function locked() {
  $("model").textContent = "locked";
  $("key-note").textContent = hasKey() ? "The server does not accept this key." : "";
  $("key").focus();
}

function enterKey() {
  if (useKey($("key").value.trim())) connect();
  else $("key-note").textContent = "This is no key: a key has letters from a to z, digits and signs of ASCII alone.";
}

function showExamples(examples) {
  $("examples").replaceChildren(...examples.map((text) => {
    const button = make("button", { type: "button", textContent: text, title: text });
    button.addEventListener("click", () => { $("prompt").value = text; $("prompt").focus(); });
    return button;
  }));
  if (!$("prompt").value && examples.length) $("prompt").value = examples[0];
}

/* ---- asking ---- */

function request(strength, seed) {
  const body = { model: model?.id, messages: [{ role: "user", content: $("prompt").value }], stream: true, seed };
  body.tpv = { progress: true };
  if (!$("alpha").disabled) body.tpv.policy = `constant:${strength}`;
  return body;
}

/* No seed is a random one, which the lanes of a race share. */
function chosenSeed(lanes) {
  const text = $("seed").value;
  if (text) return Number(text);
  return lanes > 1 ? Math.floor(Math.random() * Number.MAX_SAFE_INTEGER) : undefined;
}

async function start(strengths) {
  stop();
  if (!$("prompt").value.trim()) { $("prompt").focus(); return; }
  $("lanes").replaceChildren();
  $("lanes").classList.toggle("two", strengths.length > 1);
  const seed = chosenSeed(strengths.length);
  const mine = strengths.map((strength) => new Lane(request(strength, seed), strengths.length > 1 ? strength : null));
  for (const lane of mine) lane.rivals = mine;
  lanes = mine;
  busy(true);
  show(mine[0].root);
  await Promise.all(mine.map((lane) => lane.run()));
  if (mine !== lanes) return;
  busy(false);
  mine.forEach((lane) => lane.draw());
  announce([...mine.map((lane) => lane.outcome), mine.length === 2 ? finishRace(mine) : ""].filter(Boolean).join(". "));
  if (mine.some((lane) => lane.lost)) connect();
}

/* A phone has no room for the question and the thought together. */
function show(element) {
  const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  element.scrollIntoView({ block: matchMedia("(max-width: 34rem)").matches ? "start" : "nearest", behavior });
}

/* Two lengths can be compared if both thoughts came to their ends by themselves. */
function finishRace([base, pushed]) {
  if ([base, pushed].some((lane) => !lane.summary?.thinking_ended || lane.endedEarly)) return "not comparable";
  const from = base.summary.thinking_tokens, to = pushed.summary.thinking_tokens;
  const change = Math.round(100 * (1 - to / from));
  pushed.find("h2").append(make("span", { className: "gain", textContent: change >= 0 ? `${change} % shorter` : `${-change} % longer` }));
  return `${to} against ${from} thinking tokens`;
}

function busy(is) {
  /* A button that is switched off loses the focus to nowhere. */
  if (!is && [$("end"), $("stop")].includes(document.activeElement)) $("think").focus({ preventScroll: true });
  for (const id of ["end", "stop"]) $(id).disabled = !is;
  document.body.classList.toggle("busy", is);
}

function stop() { lanes.forEach((lane) => lane.stop()); }

/* ---- the throttle ---- */

const alpha = () => Number($("alpha").value);
const raceAlpha = () => alpha() || RACE_ALPHA;

let waiting = null;
function throttle() {
  showAlpha();
  clearTimeout(waiting);
  /* In a race the first lane stays at 0. */
  waiting = setTimeout(() => lanes.at(-1)?.control({ alpha: alpha() }), 40);
}

/* The slider is filled from 0 to its handle, in whichever direction that lies. */
function showAlpha() {
  const slider = $("alpha");
  const share = (value) => 100 * (value - slider.min) / (slider.max - slider.min);
  const [from, to] = [share(0), share(alpha())].sort((a, b) => a - b);
  slider.style.setProperty("--from", `${from}%`);
  slider.style.setProperty("--to", `${to}%`);
  $("alpha-value").textContent = alpha();
  $("race-label").textContent = `0 against ${raceAlpha()}`;
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); start([alpha()]); });
$("race").addEventListener("click", () => {
  if (!$("ask").reportValidity()) return;
  $("alpha").value = raceAlpha();
  showAlpha();
  start([0, alpha()]);
});
$("end").addEventListener("click", () => lanes.forEach((lane) => lane.control({ end_thinking: true })));
$("stop").addEventListener("click", stop);
$("alpha").addEventListener("input", throttle);
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); enterKey(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("ask").requestSubmit(); }
});
$("lanes").append($("empty").content.cloneNode(true));
showAlpha();
connect();
