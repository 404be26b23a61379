// What a person waits for on the explorer's page, for benchmarks/explorer.py: node explorer.mjs URL CHROMIUM MODULES.
import { createRequire } from "node:module";
import { join } from "node:path";

const [url, executablePath, modules] = process.argv.slice(2);
const { chromium } = createRequire(join(modules, "package.json"))("playwright-core");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
const line = (what, value, allowed) => console.log(`  ${what.padEnd(48)} ${value}${allowed ? `   (${allowed})` : ""}`);
const ms = (value) => `${Math.round(value)} ms`;

// gaps between frames, while something moves
await page.addInitScript(() => {
  window.frames = (during) => new Promise((done) => {
    let last = performance.now(); let most = 0; let on = true;
    const tick = (now) => { most = Math.max(most, now - last); last = now; if (on) requestAnimationFrame(tick); else done(most); };
    requestAnimationFrame(tick);
    Promise.resolve(during()).then(() => { on = false; });
  });
});

let began = Date.now();
await page.goto(`${url}/?screen=images`);
await page.waitForSelector(".tile[data-position]");
line("first paint", ms(await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN)), "2000 ms");
line("first images' rows on the wall", ms(Date.now() - began), "2000 ms");
await page.waitForLoadState("networkidle");

for (const where of ["place = water", "light > 0.5", "label = 3 and place = land"]) {
  await page.fill("#filter", where);
  const before = await page.locator(".status strong").first().innerText();
  const spent = await page.evaluate(async (before) => {
    const began = performance.now();
    document.getElementById("filter").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
    while (document.querySelector(".status strong").innerText === before) await new Promise(requestAnimationFrame);
    return performance.now() - began;
  }, before);
  line(`filter ${where}`, ms(spent), "300 ms");
}
await page.goto(`${url}/?screen=images&size=s`);
await page.waitForSelector(".tile[data-position]");
await page.waitForLoadState("networkidle");
const scroll = await page.evaluate(async () => {
  const wall = document.querySelector(".wall");
  const row = document.querySelector(".tile").getBoundingClientRect().height + 32;
  let blank = 0; let looks = 0;
  const most = await window.frames(async () => {
    for (let step = 0; step < 100; step++) {
      wall.scrollTop += row;
      await new Promise((done) => setTimeout(done, 100));
      looks += 1;
      const box = wall.getBoundingClientRect();
      // rows without data that are in sight
      if ([...document.querySelectorAll(".tile.empty")].some((tile) => { const at = tile.getBoundingClientRect(); return at.bottom > box.top && at.top < box.bottom; })) blank += 1;
    }
  });
  return { blank, looks, most };
});
line("scrolling 10 rows/s: looks with blank rows", `${scroll.blank} of ${scroll.looks}`, "0");
line("  the longest gap between frames", ms(scroll.most));

for (const [space, name] of [["L11H03", "one head"], ["", "the whole embedding"]]) {
  began = Date.now();
  await page.goto(`${url}/?screen=map&space=${space}&colour=attributes.place`);
  await page.waitForSelector(".plot canvas");
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  line(`map of ${name}, drawn`, ms(Date.now() - began), "4000 ms");
}
line("  drawn by", await page.getAttribute(".plot canvas", "data-drawn-by"));
await page.waitForTimeout(1500);
await page.click("button:has-text('Move')");
const box = await page.locator(".plot canvas").boundingBox();
const pan = page.evaluate(() => window.frames(() => new Promise((done) => setTimeout(done, 2500))));
await page.mouse.move(box.x + 150, box.y + 150);
await page.mouse.down();
for (let step = 0; step < 60; step++) { await page.mouse.move(box.x + 150 + 3 * step, box.y + 150 + step); await page.waitForTimeout(16); }
line("panning: the longest gap between frames", ms(await pan), "100 ms");
await page.mouse.up();
await browser.close();
