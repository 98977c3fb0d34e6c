// The page in a headless Chromium: a prompt, the bar, the slider, a race. npm install playwright-core
import assert from "node:assert/strict";
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
const percent = (page, lane = 0) => page.evaluate((lane) => Number(document.querySelectorAll("[role=progressbar]")[lane]?.getAttribute("aria-valuenow") ?? -1), lane);
const finished = (page) => page.waitForFunction(() => document.getElementById("stop").disabled, null, { timeout: 120000 });

// A prompt; the bar moves; the slider acts while the model thinks.
const page = await open(1280, 900, "light");
await page.click("#examples button");
await page.keyboard.press("Control+Enter");
await page.waitForFunction(() => Number(document.querySelector("[role=progressbar]")?.getAttribute("aria-valuenow")) > 5);
const early = await percent(page);
await page.waitForFunction((early) => Number(document.querySelector("[role=progressbar]").getAttribute("aria-valuenow")) > early + 5, early);
await shot(page, "thinking-1280");
const slider = await page.locator("#alpha").boundingBox();
await page.mouse.move(slider.x + slider.width * 15 / 55, slider.y + slider.height / 2);
await page.mouse.down();
await page.mouse.move(slider.x + slider.width * 0.7, slider.y + slider.height / 2, { steps: 5 });
await page.mouse.up();
await finished(page);
assert.equal(await percent(page), 100);
const alphas = await page.evaluate(() => lanes[0].steps.map((step) => step.alpha));
assert.equal(alphas[0], 0);
assert.ok(alphas.at(-1) > 10, `the slider did not act: ${alphas.at(-1)}`);
assert.ok(await page.evaluate(() => lanes[0].answer.length > 0));
await shot(page, "done-1280");
const [download] = await Promise.all([page.waitForEvent("download"), page.click("[data-export=svg]")]);
assert.equal(download.suggestedFilename(), "trace.svg");

// The collapsed thought is remembered.
await page.click(".thought summary");
await page.reload();
await page.waitForFunction(() => document.querySelectorAll("#examples button").length > 0);

// A race with the same seed: one lane at 0, one pushed.
await page.focus("#race");
await page.keyboard.press("Enter");
await page.waitForFunction(() => Number(document.querySelectorAll("[role=progressbar]")[1]?.getAttribute("aria-valuenow")) > 10);
assert.equal(await page.evaluate(() => document.querySelector(".thought").open), false);
await shot(page, "race-1280");
await finished(page);
const race = await page.evaluate(() => lanes.map((lane) => lane.steps.map((step) => step.alpha)));
assert.ok(race[0].every((alpha) => alpha === 0) && race[1].filter((alpha) => alpha === 15).length > 5);
await page.click("#about summary");
await shot(page, "race-done-1280");

// Ending the thought early, at two more widths and in the dark.
for (const [width, scheme] of [[768, "dark"], [390, "dark"], [390, "light"]]) {
  const narrow = await open(width, 850, scheme);
  await narrow.click("#think");
  await narrow.waitForFunction(() => lanes[0]?.steps.length > 25);
  await shot(narrow, `thinking-${width}-${scheme}`);
  assert.ok(await narrow.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${width} pixels are too few for the page`);
  await narrow.click("#end");
  await finished(narrow);
  assert.ok(await narrow.evaluate(() => lanes[0].steps.some((step) => step.forced)));
  await narrow.close();
}
await browser.close();
