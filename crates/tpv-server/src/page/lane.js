/* One thought: it is asked for, read chunk by chunk, and drawn at most once a frame. */

import { Lost, chunks, failure, post } from "./api.js";
import { $, announce, make, seconds, store, warn } from "./dom.js";
import { exportLane } from "./export.js";
import { drawTrace, expectedTokens } from "./trace.js";

const WORDS = { unknown: "progress unknown", thinking: "thinking", nearly_done: "nearly done", stuck: "stuck?", over_budget: "over budget", done: "thought out", ended: "ended early", cut: "cut", plain: "no thinking", failed: "failed", stopped: "stopped" };

/* What stands in place of the time left where no thought came to its end. */
const ENDS = { failed: () => "", stopped: () => "", plain: () => "", cut: (tokens) => `cut at ${tokens} thinking tokens` };

export class Lane {
  /* In a race each lane is named by its alpha. */
  constructor(body, alpha = null) {
    this.body = body;
    this.alpha = alpha;
    this.steps = [];
    this.pieces = [];
    this.answer = "";
    this.rivals = [this];
    this.abort = new AbortController();
    this.drawnPieces = 0;
    this.announcedTenth = -1;
    this.root = $("lane").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.find("h2").textContent = this.title;
    this.rememberThought();
    for (const button of this.root.querySelectorAll("[data-export]")) button.addEventListener("click", () => exportLane(this, button));
    $("lanes").append(this.root);
    new ResizeObserver(() => this.schedule()).observe(this.root);
  }

  rememberThought() {
    const thought = this.find(".thought");
    thought.open = store.get("thought") !== "closed";
    thought.addEventListener("toggle", () => store.set("thought", thought.open ? "open" : "closed"));
  }

  async run() {
    this.state = "thinking";
    try {
      const response = await post("/v1/chat/completions", this.body, this.abort.signal);
      if (!response.ok) throw await failure(response);
      warn("server", "");
      for await (const chunk of chunks(response)) this.take(chunk);
      this.state = "done";
    } catch (error) {
      this.state = this.abort.signal.aborted ? "stopped" : "failed";
      this.lost = error instanceof Lost;
      if (this.state === "failed") this.failure = error.message;
    }
    this.draw();
    this.find(".export").hidden = this.steps.length === 0;
  }

  take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    this.id = chunk.id;
    if (this.early) this.control(this.early);
    this.early = null;
    const delta = chunk.choices[0]?.delta ?? {};
    const tpv = chunk.tpv;
    if (tpv?.summary) this.summary = tpv.summary;
    else if (tpv?.phase === "thinking") this.steps.push(tpv);
    const reasoning = delta.reasoning ?? delta.reasoning_content;
    if (reasoning) this.pieces.push([reasoning, tpv?.progress]);
    if (delta.content) this.answer += delta.content;
    this.schedule();
  }

  /* Changes the policy or ends the thinking while it is under way. */
  async control(change) {
    if (this.state !== "thinking") return;
    /* What comes before the answer has a name waits for it. */
    if (!this.id) { this.early = { ...this.early, ...change }; return; }
    let response;
    try { response = await post("/v1/chat/completions/control", { id: this.id, ...change }); }
    catch { return; /* the answer itself says that the server is gone */ }
    if (response.status !== 404) warn("server", response.ok ? "" : (await failure(response)).message);
  }

  stop() { this.abort.abort(); }

  schedule() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.draw(); });
  }

  /* A throttle that has moved since is named, too. */
  get title() {
    if (this.alpha == null) return "Thought";
    const now = this.steps.findLast((step) => !step.forced)?.alpha ?? this.alpha;
    return `alpha ${this.alpha}${now === this.alpha ? "" : ` → ${now}`}`;
  }

  /* Whether the thought was closed by hand, so that its length says nothing of the model. */
  get endedEarly() { return Boolean(this.steps.at(-1)?.forced); }

  /* Whether the thought came to its end. */
  get thoughtOut() { return Boolean(this.summary?.thinking_ended || this.steps.at(-1)?.verdict === "done"); }

  get verdict() {
    if (this.state === "failed" || this.state === "stopped") return this.state;
    if (this.thoughtOut) return this.endedEarly ? "ended" : "done";
    if (this.summary) return this.steps.length ? "cut" : "plain";
    return this.steps.at(-1)?.verdict ?? "unknown";
  }

  /* Whether no thinking follows. */
  get over() { return this.thoughtOut || Object.hasOwn(ENDS, this.verdict); }

  /* How it ended, in words. */
  get outcome() { return [`${this.title}: ${WORDS[this.verdict]}`, this.find(".eta").textContent, this.failure].filter(Boolean).join(", "); }

  draw() {
    this.find("h2").firstChild.nodeValue = this.title;
    this.drawBar();
    this.drawWords();
    this.drawAnswer();
    /* Lanes of a race have one scale, so that the shorter thought looks shorter. */
    drawTrace(this.find(".trace"), this.steps, Math.max(...this.rivals.map((lane) => expectedTokens(lane.steps, lane.over))));
  }

  drawBar() {
    const step = this.steps.at(-1);
    const { verdict, over, thoughtOut: ended } = this;
    const badge = this.find(".verdict");
    badge.dataset.verdict = verdict;
    badge.textContent = this.state ? WORDS[verdict] : "waiting";
    this.find(".bar").classList.toggle("done", ended);
    const progress = ended ? 1 : step?.progress;
    if (progress != null) this.drawPercent(Math.round(progress * 100), verdict);
    this.drawBand(step, over);
    const tokens = this.summary?.thinking_tokens ?? step?.thinking_tokens;
    this.find(".eta").textContent = ended ? this.timeThought() : over ? ENDS[verdict](tokens) : this.timeLeft(step);
    this.find(".tokens").textContent = tokens && verdict !== "cut" ? `${tokens} thinking tokens` : "";
    this.find(".bar").setAttribute("aria-valuetext", `${this.find(".percent").textContent} ${this.find(".eta").textContent}`.trim());
  }

  drawPercent(percent, verdict) {
    this.find(".bar").setAttribute("aria-valuenow", percent);
    this.find(".fill").style.width = `${percent}%`;
    this.find(".percent").textContent = `${percent} %`;
    /* Every tenth only, so that a screen reader is not flooded. */
    const tenth = Math.floor(percent / 10);
    if (tenth !== this.announcedTenth) announce(`${this.title}: ${percent} percent, ${WORDS[verdict]}`);
    this.announcedTenth = tenth;
  }

  /* Where the bar would stand if the thought were as long, or as short, as the interval allows. */
  drawBand(step, over) {
    const left = over ? null : step?.remaining_tokens;
    const share = (tokens) => 100 * step.thinking_tokens / (step.thinking_tokens + Math.max(0, tokens));
    const [from, to] = left ? [share(left.high), share(left.low)] : [0, 0];
    Object.assign(this.find(".band").style, { left: `${from}%`, width: `${to - from}%` });
  }

  timeThought() {
    if (this.summary) return `thought for ${seconds(this.summary.thinking_secs)}`;
    return this.state === "thinking" ? "answering …" : "";
  }

  timeLeft(step) {
    const secs = step?.remaining_secs, tokens = step?.remaining_tokens;
    if (secs) return `about ${seconds(secs.value)} left (${seconds(secs.low)} to ${seconds(secs.high)})`;
    return tokens ? `about ${Math.round(tokens.value)} tokens left (${Math.round(tokens.low)} to ${Math.round(tokens.high)})` : "";
  }

  drawWords() {
    const words = this.find(".words");
    const atEnd = words.scrollTop + words.clientHeight >= words.scrollHeight - 8;
    for (const [textContent, progress] of this.pieces.slice(this.drawnPieces)) {
      words.append(make("span", { textContent, className: `p${Math.min(9, Math.floor((progress ?? 0) * 10))}` }));
    }
    this.drawnPieces = this.pieces.length;
    if (atEnd) words.scrollTop = words.scrollHeight;
  }

  /* The answer as text, what stands in \boxed{} in a box. */
  drawAnswer() {
    const parts = this.answer.trim().split(/\\boxed\{([^{}]*)\}/);
    const element = (text, place) => place % 2 ? make("b", { textContent: text, className: "boxed" }) : text;
    this.find(".answer").replaceChildren(...(this.answer.trim() ? parts.map(element) : []));
    this.find(".failure").textContent = this.failure ? `Here it ended: ${this.failure}.` : "";
  }
}
