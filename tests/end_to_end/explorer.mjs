// Plays the explorer's page in a browser for tests/end_to_end/test_explorer.py: node explorer.mjs SCENARIO CONFIG.
// Prints one line of JSON with what was seen; whatever goes wrong ends with a message and exit code 1.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const [scenario, text] = process.argv.slice(2);
const config = JSON.parse(text);
const require = createRequire(join(config.modules, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const SCREENS = {
  findings: "?screen=findings",
  cell: "?screen=findings&where=label+%3D+0+and+place+%3D+water&group=clip.predicted",
  images: "?screen=images&where=split+%3D+test&group=label",
  heads: "?screen=heads&focus=L05H03",
  search: "?screen=search&text=a+photo+of+water&minus=a+photo+of+a+forest%3D0.5&head=L05H03",
  image: "?screen=images&open=0/18&where=place+%3D+water&heat=water&heat=a+photo+of+a+waterbird&heat=grass&through=embedding&through=L05H00",
  bars: "?screen=images&open=0/18&where=place+%3D+water",
  beside: "?screen=search&text=a+photo+of+water&head=L05H03&beside=embedding",
  map: "?screen=map&colour=attributes.place&inside=embedding:pca:0,0;30000,0;30000,65535;0,65535",
  whatif: "?screen=whatif&out=L05H03&out=L05H00&along=a+photo+of+water",
  basket: "?screen=basket&where=tags+is+not+null",
  mistakes: "?screen=mistakes&where=label+%3D+1+and+report.clip.right+%3D+false",
  label: config.study ? `?screen=label&study=${config.study}` : "?screen=label",
};

const browser = await chromium.launch({ executablePath: config.chromium, args: ["--no-sandbox"] });
const seen = { requests: [], errors: [] };

async function open(width = 1280, height = 800, colorScheme = "light") {
  // axe is put into the page by the test, which the page's own policy forbids to anybody else
  const context = await browser.newContext({ viewport: { width, height }, colorScheme, bypassCSP: config.bypass === true, acceptDownloads: true });
  const page = await context.newPage();
  page.setDefaultTimeout(120000); // a busy machine is no failure
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error" && !/Failed to load resource/.test(message.text())) seen.errors.push(message.text()); });
  await page.goto(`${config.url}/#token=${config.token}`);
  await page.waitForSelector(".tile", { state: "attached" });
  return page;
}

async function settled(page) {
  await page.waitForLoadState("networkidle");
  await page.waitForFunction(() => !document.querySelector(".spinner, .tiles[aria-busy=true]"), null, { timeout: 60000 });
  await page.waitForTimeout(250);
}

const count = (page) => page.locator(".status strong").first().innerText();

const scenarios = {
  async flow() {
    const page = await open();
    let clicks = 0;
    const click = async (what) => { clicks += 1; await page.locator(what).first().click(); await settled(page); };
    await page.waitForSelector(".cell.low");
    await click(".cell.low");
    const matched = (await count(page)).replace(/\D/g, "");
    await click(".status .primary");
    await page.keyboard.type("fix-me");
    await click("dialog .primary");
    const toast = await page.locator(".toast").innerText();
    await click("nav button:has-text('Basket')");
    const download = page.waitForEvent("download");
    await click("a:has-text('exclude.txt')");
    const list = readFileSync(await (await download).path(), "utf8");
    return { clicks, matched, toast, lines: list.trim().split("\n"), address: page.url() };
  },

  async screens() {
    const result = [];
    for (const [width, height] of [[400, 860], [1280, 800]]) {
      for (const scheme of ["light", "dark"]) {
        const page = await open(width, height, scheme);
        for (const [name, address] of Object.entries(SCREENS)) {
          await page.goto(config.url + "/" + address);
          await settled(page);
          const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          if (config.out) await page.screenshot({ path: join(config.out, `${name}-${width}-${scheme}.png`) });
          await page.evaluate(axe);
          const report = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
          const serious = report.violations.filter((each) => ["serious", "critical"].includes(each.impact))
            .map((each) => `${each.id}: ${each.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`);
          result.push({ name, width, scheme, wide, serious, tiles: await page.locator(".tile, .thumb, .stage-picture img").count() });
        }
        await page.context().close();
      }
    }
    return { result, screens: Object.keys(SCREENS).length };
  },

  async keyboard() {
    const page = await open();
    const press = async (key) => { await page.keyboard.press(key); await page.waitForTimeout(120); };
    await press("/");
    await page.keyboard.type("pla");
    await press("ArrowDown"); await press("Enter");
    await page.keyboard.type("= wa");
    await press("ArrowDown"); await press("Enter"); await press("Enter");
    await settled(page);
    const where = new URL(page.url()).searchParams.get("where");
    const focused = () => page.evaluate(() => document.activeElement?.getAttribute("data-position"));
    for (let tabs = 0; tabs < 20 && (await focused()) === null; tabs++) await press("Tab");
    await press("ArrowRight"); await press("ArrowDown");
    const moved = await focused();
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    await press("x"); await press("ArrowRight"); await press("x");
    const chosen = await page.locator(".chosen strong").innerText();
    await press("t");
    await page.keyboard.type("by keys");
    await press("Enter");
    await settled(page);
    const toast = await page.locator(".toast").innerText();
    await press("Escape"); await press("?");
    const help = await page.locator("dialog").innerText();
    await press("Escape");
    for (let tabs = 0; tabs < 30 && (await focused()) === null; tabs++) await press("Tab");
    await press("Enter");
    await settled(page);
    const opened = new URL(page.url()).searchParams.get("open");
    await press("Escape"); await settled(page);
    return { where, moved, outline, chosen, toast, help, opened, closed: new URL(page.url()).searchParams.get("open") };
  },

  async beside() {
    const page = await open();
    await page.goto(config.url + "/?screen=heads&focus=L05H03"); await settled(page);
    await page.fill(".detail form input", "a photo of water"); await page.keyboard.press("Enter"); await settled(page);
    await page.selectOption(".detail select", "L05H00"); await settled(page);
    const heads = await page.locator(".beside h3").allInnerTexts();
    const ranks = await page.locator(".columns-two section").nth(1).locator(".ranks strong").allInnerTexts();
    const headline = await page.locator(".beside .headline").innerText();
    await page.goto(config.url + "/?screen=search&text=a+photo+of+water"); await settled(page);
    await page.selectOption(".panel select >> nth=-1", "L05H03"); await settled(page);
    const search = await page.locator(".beside h3").allInnerTexts();
    await page.fill("#filter", "place = land"); await page.keyboard.press("Enter"); await settled(page);
    const filtered = await page.locator(".beside .headline").innerText();
    await page.locator(".ranked .thumb").first().click(); await settled(page);
    return { heads, ranks, headline, search, filtered, opened: new URL(page.url()).searchParams.get("open") };
  },

  async where() {
    const page = await open();
    await page.goto(config.url + "/?screen=images&open=0/18&where=place+%3D+water"); await settled(page);
    const offered = await page.locator(".where button.pick").allTextContents();
    const asked = () => new URL(page.url()).searchParams;
    await page.focus(".where form input");
    await page.keyboard.type("water"); await page.keyboard.press("Enter"); await settled(page);
    // by the keyboard: from the field over the texts to the heads
    const ticked = () => page.evaluate(() => document.activeElement?.closest(".through .pick")?.textContent?.trim() ?? "");
    for (let tabs = 0; tabs < 20 && !/^L\d/.test(await ticked()); tabs++) await page.keyboard.press("Tab");
    const head = await ticked();
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    await page.keyboard.press("Space"); await settled(page);
    const maps = () => page.locator(".heat canvas").evaluateAll((all) => all.map((each) => each.getAttribute("aria-label")));
    const one = await maps();
    const drawn = await page.locator(".heat canvas").first().evaluate((canvas) => new Set(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.filter((_, at) => at % 4 === 0)).size);
    const box = await page.locator(".heat-over").first().boundingBox();
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    const here = await page.locator(".heat-ends strong").innerText();
    await page.fill(".where form input", "grass"); await page.click(".where form button"); await settled(page);
    const unseen = await page.locator(".heat.unseen figcaption").first().innerText();
    const scale = await page.locator(".heat-legend").count();
    const address = [asked().getAll("heat"), asked().getAll("through")];
    // the next image of the wall is asked for the same
    await page.locator(".tile[aria-current=true]").focus(); await page.keyboard.press("ArrowRight"); await settled(page);
    const next = { open: asked().get("open"), maps: await page.locator(".heat").count() };
    await page.click(".where button[aria-label='Look for grass no longer']"); await settled(page);
    const left = asked().getAll("heat");
    const near = await page.locator("section[aria-label='Near duplicates']").innerText();
    // what the bars are of stands in the address, too
    await page.selectOption(".bars select >> nth=1", "none"); await settled(page);
    const sum = await page.locator(".bars tfoot .number").innerText();
    await page.reload(); await settled(page);
    const bars = [await page.inputValue(".bars select >> nth=1"), await page.locator(".bars tfoot .number").innerText() === sum];
    await page.click(".image-head button:has-text('Tag')"); await page.waitForSelector("dialog[open]"); await settled(page);
    await page.keyboard.type("look"); await page.keyboard.press("Enter"); await settled(page);
    await page.goto(config.url + "/?screen=basket&where=tags+is+not+null"); await settled(page);
    const download = page.waitForEvent("download");
    await page.click("a:has-text('weights.parquet')");
    const weights = await (await download).path();
    return { bars, offered, head, outline, one, drawn, here, unseen, scale, address, next, left, near, weights: readFileSync(weights).subarray(0, 4).toString() };
  },

  async map() {
    const page = await open();
    if (config.plain) await page.addInitScript(() => {
      const real = HTMLCanvasElement.prototype.getContext;
      HTMLCanvasElement.prototype.getContext = function (kind, ...more) { return kind === "webgl2" ? null : real.call(this, kind, ...more); };
    });
    await page.goto(config.url + "/?screen=map&colour=attributes.place"); await settled(page);
    const canvas = page.locator(".plot canvas");
    const box = await canvas.boundingBox();
    const drawn = () => canvas.screenshot().then((picture) => picture.length);
    const by = await canvas.getAttribute("data-drawn-by");
    const whole = await drawn();
    const colours = await page.evaluate(() => {
      const source = document.querySelector(".plot canvas");
      const copy = document.createElement("canvas");
      [copy.width, copy.height] = [source.width, source.height];
      const context = copy.getContext("2d");
      context.drawImage(source, 0, 0);
      const data = context.getImageData(0, 0, copy.width, copy.height).data;
      const kinds = {};
      for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200) { const name = data[at] > 150 ? "water" : "land"; kinds[name] = (kinds[name] ?? 0) + 1; }
      return kinds;
    });
    const corners = [[0.03, 0.03], [0.5, 0.03], [0.5, 0.97], [0.03, 0.97]].map(([x, y]) => [box.x + x * box.width, box.y + y * box.height]);
    await page.mouse.move(...corners[0]); await page.mouse.down();
    for (const corner of [...corners.slice(1), corners[0]]) await page.mouse.move(...corner, { steps: 8 });
    await page.mouse.up(); await settled(page);
    const inside = new URL(page.url()).searchParams.get("inside");
    const apart = await page.locator(".apart").innerText();
    const matched = await count(page);
    await page.locator(".apart .link", { hasText: "=" }).first().click(); await settled(page);
    const where = new URL(page.url()).searchParams.get("where");
    await page.goBack(); await page.goBack(); await settled(page);
    const back = [new URL(page.url()).searchParams.get("inside"), await count(page)];
    await canvas.focus();
    for (const key of ["+", "+", "ArrowLeft", "Enter"]) { await page.keyboard.press(key); await page.waitForTimeout(60); }
    await settled(page);
    const byKeys = await count(page);
    await page.click(".bar button[aria-label='Forget the region']"); await settled(page);
    const zoomed = await drawn();
    await page.click(".map-tools button:has-text('Move')");
    await page.mouse.move(box.x + 200, box.y + 200); await page.mouse.down();
    await page.mouse.move(box.x + 260, box.y + 240, { steps: 6 }); await page.mouse.up(); await settled(page);
    const moved = new URL(page.url()).searchParams.get("inside");
    await page.goto(config.url + "/?screen=map"); await settled(page);
    const spot = await page.evaluate(() => {
      const source = document.querySelector(".plot canvas");
      const copy = document.createElement("canvas");
      [copy.width, copy.height] = [source.width, source.height];
      copy.getContext("2d").drawImage(source, 0, 0);
      const data = copy.getContext("2d").getImageData(0, 0, copy.width, copy.height).data;
      const at = data.findIndex((value, place) => place % 4 === 3 && value > 200) >> 2;
      const box = source.getBoundingClientRect();
      return [box.x + (at % copy.width) * box.width / copy.width, box.y + Math.floor(at / copy.width) * box.height / copy.height + 1];
    });
    await page.mouse.click(...spot); await settled(page);
    return { by, whole, zoomed, colours, inside, apart, matched, where, back, byKeys, moved, opened: new URL(page.url()).searchParams.get("open") };
  },

  async whatif() {
    const page = await open();
    await page.goto(config.url + "/?screen=whatif&among=split+%3D+test"); await settled(page);
    const cells = () => page.locator(".changes tbody tr").evaluateAll((rows) => rows.map((row) => row.innerText.replace(/\s+/g, " ")));
    const before = await cells();
    await page.locator(".tick input").first().check(); await settled(page);
    const one = { headline: await page.locator(".headline").innerText(), cells: await cells(), out: new URL(page.url()).searchParams.getAll("out") };
    await page.click(".take-out .buttons button"); await settled(page);
    const heads = { out: new URL(page.url()).searchParams.getAll("out"), band: await page.locator(".line .band").count(), text: await page.locator(".answer").innerText() };
    await page.fill(".take-out form input", "a photo of water"); await page.keyboard.press("Enter"); await settled(page);
    const along = await page.locator(".headline").innerText();
    await page.fill(".inline-form input", "no water"); await page.click(".inline-form button"); await settled(page);
    const toast = await page.locator(".toast").innerText();
    await page.click(".take-out .link"); await settled(page);
    await page.click(".arm"); await settled(page);
    const again = await page.locator(".headline").innerText();
    await page.locator(".changes tbody .link").first().click(); await settled(page);
    return { before, one, heads, along, toast, again, where: new URL(page.url()).searchParams.get("where"), matched: await count(page), command: await page.locator(".panel .copyable pre").first().innerText() };
  },

  async label() {
    const page = await open();
    const truth = new Set(JSON.parse(readFileSync(config.truth, "utf8")));
    await page.goto(config.url + "/?screen=findings"); await settled(page);
    await page.click(".card.candidate h3 button"); await settled(page);
    await page.click("button:has-text('Label this cue')");
    const offered = await page.inputValue(".tag-form input >> nth=0");
    await page.fill(".tag-form input >> nth=0", "water");
    await page.click("button:has-text('Begin')");
    await page.waitForSelector(".stage-picture[data-place]", { timeout: 60000 });
    const more = () => page.locator(".label-progress").innerText();
    const planned = await more();
    let labels = 0;
    const shown = () => page.locator(".stage-picture").getAttribute("data-place");
    // every picture is another one than that before it
    const say = async (key) => {
      const before = await shown();
      await page.keyboard.press(key);
      await page.waitForFunction((place) => { const now = document.querySelector(".stage-picture"); return now && now.dataset.place !== place; }, before);
    };
    await say("j");
    const wrongly = await shown();
    await page.waitForFunction(() => !document.querySelector(".stage .quiet").disabled);
    await page.waitForTimeout(300);
    await page.keyboard.press("z");
    await page.waitForFunction((place) => document.querySelector(".stage-picture").dataset.place !== place, wrongly);
    await page.waitForTimeout(300);
    const undone = await more();
    while (labels < 200) {
      await say(truth.has(await shown()) ? "j" : "f");
      labels += 1;
      if (labels % 20 === 0) { await page.waitForTimeout(200); if (/enough to judge/.test(await more())) break; }
    }
    await page.waitForTimeout(500);
    if (config.out) await page.screenshot({ path: join(config.out, "label-done.png") });
    const shares = await page.locator(".shares").innerText();
    await page.click("button:has-text('Judge with these labels')");
    await page.waitForSelector(".card.outcome", { timeout: 240000 });
    const outcome = await page.locator(".card.outcome").innerText();
    if (config.out) await page.screenshot({ path: join(config.out, "label-verdict.png") });
    await page.click("button:has-text('See the findings')"); await settled(page);
    const cards = await page.locator(".card h3").allInnerTexts();
    return { offered, planned, undone, labels, shares, outcome, cards, findings: await page.locator(".panel").innerText() };
  },

  async mistakes() {
    const page = await open();
    await page.goto(config.url + "/?screen=mistakes"); await settled(page);
    const texts = await page.locator(".panel").innerText();
    await page.click(".slice button:has-text('The wrong ones')"); await settled(page);
    const wrong = Number((await count(page)).replace(/\D/g, ""));
    const marks = await page.locator(".marks").count();
    const pressed = await page.locator(".slice button[aria-pressed=true]").innerText();
    const tag = await page.locator(".status .primary").innerText();
    await page.goto(config.url + "/?screen=findings&where=label+%3D+0+and+place+%3D+water"); await settled(page);
    const answerers = await page.locator(".inline-choice option").allInnerTexts();
    await page.selectOption(".inline-choice select", { index: 1 }); await settled(page);
    const where = new URL(page.url()).searchParams.get("where");
    const all = await page.locator(".cell[aria-pressed=true]").count();
    // a key must not tag what the button may not
    await page.goto(config.url + "/?screen=images"); await settled(page);
    await page.locator(".tile").first().focus();
    await page.keyboard.press("t");
    await page.waitForTimeout(300);
    return { texts, wrong, marks, pressed, tag, answerers, where, all, dialogs: await page.locator("dialog[open]").count(), toast: await page.locator(".toast").innerText() };
  },

  async history() {
    const page = await open();
    await page.goto(config.url + "/?screen=images"); await settled(page);
    await page.fill("#filter", "place = water"); await page.keyboard.press("Enter"); await settled(page);
    const first = await count(page);
    await page.selectOption(".controls label:has-text('Group') select", { label: "split" }); await settled(page);
    const grouped = await page.locator("h3.group").count();
    await page.goBack(); await settled(page);
    const back = [await count(page), await page.locator("h3.group").count(), await page.inputValue("#filter")];
    await page.goBack(); await settled(page);
    const all = await count(page);
    await page.goForward(); await page.goForward(); await settled(page);
    const forward = await page.locator("h3.group").count();
    const other = await open();
    await other.goto(page.url()); await settled(other);
    return { first, grouped, back, all, forward, shared: await other.locator("h3.group").count() };
  },

  async scroll() {
    const page = await open();
    await page.goto(config.url + "/?screen=images&size=s"); await settled(page);
    await page.locator(".wall").evaluate((wall) => { wall.scrollTop = wall.scrollHeight; });
    await settled(page);
    const last = await page.locator(".tile").evaluateAll((tiles) => Math.max(...tiles.map((tile) => Number(tile.dataset.position ?? -1))));
    return { last, tiles: await page.locator(".tile").count(), empty: await page.locator(".tile.empty").count() };
  },

  async hostile() {
    const page = await open();
    await page.goto(config.url + "/?screen=images&open=0/1"); await settled(page);
    const texts = [await page.locator("body").innerText()];
    for (const screen of ["search&text=<img src=x onerror=hacked=1>", "basket", "findings", "images&group=evil&where=label = '<script>hacked=1</script>'"]) {
      await page.goto(config.url + "/?screen=" + encodeURI(screen)); await settled(page);
      texts.push(await page.locator("body").innerText());
    }
    await page.click("button:has-text('As code')");
    texts.push(await page.locator("dialog").innerText());
    const hacked = await page.evaluate(() => typeof window.hacked);
    const scripts = await page.evaluate(() => document.querySelectorAll("script").length);
    const blocked = await page.evaluate(() => { const script = document.createElement("script"); script.textContent = "window.hacked = 1"; document.body.append(script); return typeof window.hacked; });
    await page.waitForTimeout(200);
    const refused = seen.errors.filter((error) => error.includes("Content Security Policy")).length;
    seen.errors = seen.errors.filter((error) => !error.includes("Content Security Policy"));
    return { text: texts.join("\n"), hacked, scripts, blocked, refused };
  },

  async missing() {
    const page = await open();
    await settled(page);
    const findings = await page.locator(".panel").innerText();
    await page.click("nav button:has-text('Heads')"); await settled(page);
    const heads = await page.locator(".panel").innerText();
    await page.goto(config.url + "/?screen=whatif"); await settled(page);
    const whatif = await page.locator(".panel").innerText();
    await page.goto(config.url + "/?screen=map&method=umap"); await settled(page);
    const map = await page.locator(".panel").innerText();
    await page.goto(config.url + "/?screen=images&open=0/1&heat=a+cat"); await settled(page);
    const image = await page.locator(".panel").innerText();
    await page.goto(config.url + "/?screen=images&where=nothing+%3D+1"); await settled(page);
    const refused = await page.locator(".wall").innerText();
    await page.click("button:has-text('Show all images again')"); await settled(page);
    const recovered = [new URL(page.url()).searchParams.get("where"), await count(page)];
    await page.goto(config.url + "/?screen=basket"); await settled(page);
    return { image, refused, recovered, whatif, map, findings, heads, basket: await page.locator(".panel").innerText(), banner: await page.locator(".banner").allInnerTexts(), tiles: await page.locator(".no-picture").count() };
  },

  async lost() {
    const page = await open();
    await settled(page);
    console.log("open");
    await lines.next();
    await page.waitForSelector(".banner.bad", { timeout: 30000 });
    const told = await page.locator(".banner.bad").innerText();
    const tiles = await page.locator(".tile").count();
    console.log("told");
    await lines.next();
    await page.waitForSelector(".banner.bad", { state: "detached", timeout: 30000 });
    await page.fill("#filter", "label = 1"); await page.keyboard.press("Enter"); await settled(page);
    return { told, tiles, after: await count(page) };
  },
};

try {
  const result = await scenarios[scenario]();
  console.log(JSON.stringify({ ...result, ...seen }));
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
  process.stdin.destroy();
}
