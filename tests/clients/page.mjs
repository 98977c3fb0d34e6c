// The page in a headless Chromium: a prompt, the bar, the slider, a race, exports, three widths. npm install playwright-core
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const shots = process.env.SHOTS; // a folder for screenshots, if they are wanted
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args });

async function open(width, height, colorScheme) {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme, reducedMotion: "reduce" });
  page.on("pageerror", (error) => assert.fail(error));
  page.on("console", (message) => assert.ok(message.type() !== "error", message.text()));
  await page.goto(process.env.TPV_URL);
  await page.waitForFunction(() => document.querySelectorAll("#examples button").length > 0);
  return page;
}

const shot = (page, name) => (shots ? page.screenshot({ path: `${shots}/${name}.png`, fullPage: true }) : null);
const percent = (page) => page.evaluate(() => Number(document.querySelector("[role=progressbar]")?.getAttribute("aria-valuenow") ?? -1));
const above = (page, least, lane = 0) => page.waitForFunction(([least, lane]) => Number(document.querySelectorAll("[role=progressbar]")[lane]?.getAttribute("aria-valuenow")) > least, [least, lane]);
const finished = (page) => page.waitForFunction(() => document.getElementById("stop").disabled, null, { timeout: 120000 });

async function exported(page, kind, lane = 0) {
  const button = page.locator(".lane").nth(lane).locator(`[data-export=${kind}]`);
  const [download] = await Promise.all([page.waitForEvent("download"), button.click()]);
  return { name: download.suggestedFilename(), text: await readFile(await download.path(), "utf8") };
}
const trace = async (page, lane = 0) => JSON.parse((await exported(page, "json", lane)).text);

/* The number at the right end of each trace. */
const lastTokens = (page) => page.evaluate(() => [...document.querySelectorAll(".trace")].map((trace) => [...trace.querySelectorAll("text")].at(-1).textContent));

async function dragTo(page, share) {
  const slider = await page.locator("#alpha").boundingBox();
  await page.mouse.move(slider.x + slider.width * 15 / 55, slider.y + slider.height / 2);
  await page.mouse.down();
  await page.mouse.move(slider.x + slider.width * share, slider.y + slider.height / 2, { steps: 5 });
  await page.mouse.up();
}

// A prompt; the bar moves; the slider acts while the model thinks.
const page = await open(1400, 900, "light");
await shot(page, "idle-1400");
assert.match(await page.locator("#error").textContent(), /measured error 0\.\d+ \(/);
await page.click("#examples button");
await page.keyboard.press("Control+Enter");
await above(page, 5);
await above(page, (await percent(page)) + 5);
assert.match(await page.locator("[role=progressbar]").getAttribute("aria-valuetext"), /^\d+ % about .* left \(/);
await shot(page, "thinking-1400");
await dragTo(page, 0.7);
await finished(page);
assert.equal(await percent(page), 100);
await shot(page, "done-1400");
const { steps, answer, request } = await trace(page);
assert.equal(steps[0].alpha, 0);
assert.ok(steps.at(-1).alpha > 10, `the slider did not act: ${steps.at(-1).alpha}`);
assert.ok(answer.length > 0 && request.stream);
const picture = await exported(page, "svg");
assert.ok(picture.name === "trace.svg" && picture.text.startsWith("<svg") && picture.text.includes("<path"));

// The collapsed thought is remembered.
await page.click(".thought summary");
await page.waitForFunction(() => localStorage.getItem("thought") === "closed");
await page.reload();
await page.waitForFunction(() => document.querySelectorAll("#examples button").length > 0);

// A race by keyboard, with the same seed: one lane at 0, one pushed.
await page.focus("#race");
await page.keyboard.press("Enter");
await above(page, 10, 1);
assert.equal(await page.evaluate(() => document.querySelector(".thought").open), false);
await shot(page, "race-1400");
await finished(page);
const [base, pushed] = [await trace(page, 0), await trace(page, 1)];
assert.equal(base.request.seed, pushed.request.seed);
assert.ok(base.steps.every((step) => step.alpha === 0));
assert.ok(pushed.steps.every((step) => step.alpha === 15 || step.forced));
await page.click("#about summary");
await shot(page, "raced-1400");

// Esc stops.
await page.click("#think");
await above(page, 3);
await page.keyboard.press("Escape");
await finished(page);
assert.equal(await page.locator(".verdict").textContent(), "stopped");

// Ending the thought early, at two more widths and in the dark.
for (const [width, scheme] of [[800, "dark"], [375, "dark"], [375, "light"]]) {
  const narrow = await open(width, 850, scheme);
  await narrow.click("#think");
  await above(narrow, 8);
  await shot(narrow, `thinking-${width}-${scheme}`);
  assert.ok(await narrow.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${width} pixels are too few for the page`);
  await narrow.click("#end");
  await finished(narrow);
  assert.ok((await trace(narrow)).steps.some((step) => step.forced));
  await narrow.close();
}

// The picture of docs/SERVER.md.
if (shots) {
  const wide = await open(1100, 1310, "light"); // high enough for all of it
  await wide.click("#race");
  await above(wide, 80, 1);
  await shot(wide, "page");
  await wide.close();
}

// A vector that was made for another model is warned about.
const strange = await browser.newPage();
await strange.route("**/v1/models", async (route) => {
  const models = await (await route.fetch()).json();
  models.data[0].tpv.vector.warnings.push("It was made for another model.");
  await route.fulfill({ json: models });
});
await strange.goto(process.env.TPV_URL);
await strange.waitForFunction(() => !document.getElementById("warning").hidden);
assert.match(await strange.locator("#warning").textContent(), /may not belong to this model.*made for another/);

// What goes wrong is said in words. These pages may log errors to the console.
async function bare(route = null, handler = null) {
  const page = await browser.newPage({ viewport: { width: 1000, height: 800 }, reducedMotion: "reduce" });
  page.on("pageerror", (error) => assert.fail(error));
  if (route) await page.route(route, handler);
  await page.goto(process.env.TPV_URL);
  return page;
}
const ready = (page) => page.waitForFunction(() => document.querySelectorAll("#examples button").length > 0);
const CHAT = "**/v1/chat/completions", MODELS = "**/v1/models";
const shorter = (route) => route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), max_tokens: 30 }) });

// A thought that was cut says so, and a race of cut thoughts compares nothing.
const cut = await bare(CHAT, shorter);
await ready(cut);
await cut.click("#race");
await finished(cut);
assert.deepEqual(await cut.locator(".verdict").allTextContents(), ["cut", "cut"]);
assert.deepEqual(await cut.locator(".eta").allTextContents(), ["cut at 30 thinking tokens", "cut at 30 thinking tokens"]);
assert.equal(await cut.locator(".gain").count(), 0);
assert.match(await cut.locator("#live").textContent(), /cut at 30 thinking tokens.*not comparable/);
// Nor is its trace drawn for tokens that never came.
assert.deepEqual(await lastTokens(cut), ["30", "30"]);
await shot(cut, "cut-race");

// A race in which a thought is closed by hand compares nothing, and a lane says which alpha it has come to.
const closed = await bare();
await ready(closed);
await closed.click("#race");
await above(closed, 5, 1);
await closed.focus("#alpha");
for (let k = 0; k < 3; k += 1) await closed.keyboard.press("ArrowRight");
await closed.waitForFunction(() => document.querySelectorAll(".lane h2")[1].textContent === "alpha 15 → 18");
await closed.click("#end");
await finished(closed);
assert.deepEqual(await closed.locator(".lane h2").allTextContents(), ["alpha 0", "alpha 15 → 18"]);
assert.equal(await closed.locator(".gain").count(), 0);
assert.deepEqual(await closed.locator(".verdict").allTextContents(), ["ended early", "ended early"]);
assert.match(await closed.locator("#live").textContent(), /not comparable/);
await shot(closed, "closed-race");

// A stopped thought keeps the scale of what it had.
await closed.click("#think");
await above(closed, 5);
await closed.keyboard.press("Escape");
await finished(closed);
const stopped = (await trace(closed)).steps.at(-1).thinking_tokens;
assert.deepEqual(await lastTokens(closed), [String(Math.max(20, stopped))]);
await shot(closed, "stopped");

// A seed that JavaScript would round is not sent, and an empty one is left out; the lanes of a race share one all the same.
const bodies = [];
const seeds = await bare(CHAT, (route) => { bodies.push(route.request().postDataJSON()); return shorter(route); });
await ready(seeds);
for (const seed of ["9007199254740992", "18446744073709551615", "-1", "0.5"]) {
  await seeds.fill("#seed", seed);
  for (const button of ["#think", "#race"]) await seeds.click(button);
  assert.equal(await seeds.evaluate(() => document.getElementById("seed").validity.valid), false, seed);
}
assert.equal(bodies.length, 0);
for (const [seed, sent] of [["", undefined], ["0", 0], ["9007199254740991", 9007199254740991]]) {
  await seeds.fill("#seed", seed);
  await seeds.click("#think");
  await finished(seeds);
  assert.equal(bodies.pop().seed, sent);
}
await seeds.fill("#seed", "");
await seeds.click("#race");
await finished(seeds);
assert.ok(Number.isSafeInteger(bodies[0].seed) && bodies[0].seed === bodies[1].seed && bodies.length === 2);

// A throttle that is moved before the answer has a name acts as soon as it has one; Stop hands the focus on.
const early = await bare(CHAT, async (route) => { await new Promise((done) => { setTimeout(done, 700); }); await route.continue(); });
await ready(early);
await early.click("#think");
await early.focus("#alpha");
for (let k = 0; k < 12; k += 1) await early.keyboard.press("ArrowRight");
await above(early, 8);
await early.focus("#stop");
await early.keyboard.press("Enter");
await finished(early);
assert.equal(await early.evaluate(() => document.activeElement.id), "think");
assert.match(await early.locator("#live").textContent(), /Thought: stopped/);
assert.equal((await trace(early)).steps.at(-1).alpha, 12);

// A wrong key, and one that no header can hold.
const refusal = (status, code, message) => ({ status, json: { error: { message, code, type: "", param: null } } });
const locked = await bare(MODELS, (route) => route.fulfill(refusal(401, "invalid_api_key", "the API key is missing or wrong")));
await locked.waitForFunction(() => !document.getElementById("key-form").hidden);
assert.equal(await locked.locator("#key-note").textContent(), "");
for (const [key, sentence] of [["wrong", /does not accept this key/], ["schlüssel–", /no key/]]) {
  await locked.fill("#key", key);
  await locked.keyboard.press("Enter");
  await locked.waitForFunction((text) => new RegExp(text).test(document.getElementById("key-note").textContent), sentence.source);
}

// A warning goes with the next success.
let stopping = true;
const warned = await bare("**/v1/chat/completions/control", (route) => stopping ? route.fulfill(refusal(503, "stopping", "the server is stopping")) : route.continue());
await ready(warned);
await warned.click("#think");
await above(warned, 3);
await warned.focus("#alpha");
await warned.keyboard.press("ArrowRight");
await warned.waitForFunction(() => document.getElementById("warning").textContent === "the server is stopping");
stopping = false;
await warned.keyboard.press("ArrowRight");
await warned.waitForFunction(() => document.getElementById("warning").hidden);
await warned.keyboard.press("Escape");

// A server that dies in the middle: what came so far stays, a sentence says why, and the header knows.
const dying = await bare();
await ready(dying);
const piece = (delta, tpv) => `data: ${JSON.stringify({ id: "chatcmpl-1", choices: [{ index: 0, delta }], tpv })}\n\n`;
const step = { phase: "thinking", progress: 0.3, raw: 0.3, thinking_tokens: 1, alpha: 0, verdict: "thinking" };
await dying.route(CHAT, (route) => route.fulfill({ contentType: "text/event-stream", body: piece({ reasoning: "Half a thought" }, step) }));
await dying.route(MODELS, (route) => route.abort());
await dying.click("#think");
await finished(dying);
assert.equal(await dying.locator(".verdict").textContent(), "failed");
assert.equal(await dying.locator(".words").textContent(), "Half a thought");
assert.match(await dying.locator(".lane .failure").textContent(), /connection to the server broke/);
assert.match(await dying.locator("#live").textContent(), /failed.*connection to the server broke/);
await dying.waitForFunction(() => document.getElementById("model").textContent.includes("does not answer"));
await dying.route(CHAT, (route) => route.abort());
await dying.click("#think");
await finished(dying);
assert.match(await dying.locator(".lane .failure").textContent(), /connection to the server broke/);
await browser.close();
