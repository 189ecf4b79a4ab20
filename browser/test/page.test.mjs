/** The page as a person uses it, with keyboard and mouse; what it shows is what Python answers. */

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { gunzipSync } from "node:zlib";
import { build, launch, modelsFolder, python, serve, skip } from "./serve.mjs";

const HISTORY = [
  "g-coffee-espresso-roast-whole-bean",
  "g-coffee-almond-biscotti-dunking",
  "g-coffee-vanilla-syrup",
];
const ASK = `
import json, sys
from llmcdsr_lite import Recommender
folder, history, options = sys.argv[1], *map(json.loads, sys.argv[2:])
found = Recommender.load(folder).recommend(history, explain=True, **options)
said = found.explanation
print(json.dumps({
    "setting": said.setting,
    "items": [[item.id, item.score] for item in found],
    "pseudo": [[item.id, item.similarity] for item in said.pseudo],
    "history": [[item.id, item.change] for item in said.history],
}))
`;

/** What Python answers. */
function ask(history, options) {
  const folder = path.join(modelsFolder, "demo");
  const printed = execFileSync(python, ["-c", ASK, folder, JSON.stringify(history), JSON.stringify(options)]);
  return JSON.parse(String(printed));
}

describe("the page", { skip }, () => {
  let browser, built, server, page, context;
  const problems = [];

  before(async () => {
    built = await build();
    server = await serve({ "/": built.out });
    browser = await launch(["--host-resolver-rules=MAP shop.test 127.0.0.1"]);
  });

  after(async () => {
    await browser?.close();
    await server?.close();
    await built?.remove();
  });

  beforeEach(async () => {
    await context?.close();
    context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
    page = await context.newPage();
    problems.length = 0;
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) problems.push(message.text());
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(server.url)) problems.push(`asks for ${request.url()}`);
    });
    await ready(page, server.url);
  });

  test("keyboard and mouse, from an empty history to reasons", async () => {
    assert.match(await note(), /most popular/);
    const before = await shown("#recommendations");
    assert.equal(before.length, 10);

    const box = page.getByRole("combobox", { name: "Add an item" });
    await box.focus();
    await page.keyboard.type("whole bean espresso");
    assert.equal(await box.getAttribute("aria-expanded"), "true");
    await page.keyboard.press("Enter");
    assert.equal(await box.getAttribute("aria-expanded"), "false");
    await page.keyboard.type("biscotti");
    await page.keyboard.press("Escape");
    assert.equal(await page.getByRole("listbox", { name: "Matching items" }).count(), 0);
    await page.keyboard.press("ArrowDown"); // the list, and the first of it
    const active = await box.getAttribute("aria-activedescendant");
    assert.equal(await page.locator(`[id="${active}"]`).getAttribute("aria-selected"), "true");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Enter");
    await box.fill("vanilla syrup");
    await page.getByRole("option", { name: /Vanilla Coffee Syrup/ }).click();
    assert.deepEqual(await ids("#history"), HISTORY);

    await page.getByRole("radio", { name: "by history" }).check();
    await settled();
    const expected = ask(HISTORY, { domain: "kitchenware", pseudo: HISTORY, k: 10 });
    assert.ok(expected.pseudo.length > 0);
    same(await shown("#recommendations"), expected.items);
    same(await shown("#influences"), expected.history);
    assert.deepEqual(
      await ids("#pseudo-items"),
      expected.pseudo.map(([id]) => id),
    );
    const setting = (await page.locator("#pseudo-items b").innerText()).toLowerCase();
    assert.equal(setting, expected.setting);
    assert.match(await page.locator("#python").textContent(), /pseudo=history/);
    assert.deepEqual(problems, []);
  });

  test("every choice changes the answer as in Python", async () => {
    await page.getByRole("button", { name: "coffee lover" }).click();
    const history = await ids("#history");
    await page.getByRole("radio", { name: "groceries" }).check();
    await settled();
    same(await shown("#recommendations"), ask(history, { domain: "groceries", k: 10 }).items);
    assert.match(await page.locator("#pseudo-items").innerText(), /has items of groceries/);
    await page.getByRole("radio", { name: "all" }).check();
    await page.getByRole("spinbutton", { name: "How many" }).fill("25");
    await page.getByRole("checkbox", { name: /leave out/ }).uncheck();
    await settled();
    same(await shown("#recommendations"), ask(history, { k: 25, exclude_seen: false }).items);
    assert.equal(await page.getByRole("radio", { name: "by history" }).isDisabled(), true);

    await page.getByRole("radio", { name: "groceries" }).check();
    await page.getByRole("radio", { name: "by names" }).check();
    assert.match(await page.locator("#pseudo-items").innerText(), /no names are given/);
    const names = page.getByRole("combobox", { name: /Add a name/ });
    await names.fill("gooseneck");
    await page.keyboard.press("Enter");
    await settled();
    const named = await ids("#names");
    const expected = ask(history, { domain: "groceries", pseudo: named, k: 25, exclude_seen: false });
    assert.equal(named.length, 1);
    same(await shown("#recommendations"), expected.items);
    assert.deepEqual(
      await ids("#pseudo-items"),
      expected.pseudo.map(([id]) => id),
    );
    await page.getByRole("radio", { name: "off" }).check();
    await settled();
    same(
      await shown("#recommendations"),
      ask(history, { domain: "groceries", pseudo: "off", k: 25, exclude_seen: false }).items,
    );
    assert.deepEqual(problems, []);
  });

  test("the history can be put in order, by keyboard, too", async () => {
    await page.getByRole("button", { name: "coffee lover" }).click();
    const [first, second, ...others] = await ids("#history");
    await page.getByRole("button", { name: /^Move Espresso Roast.* down$/ }).focus();
    await page.keyboard.press("Enter");
    assert.deepEqual(await ids("#history"), [second, first, ...others]);
    const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label"));
    assert.match((await focused()) ?? "", /^Move Espresso Roast.* down$/);
    await page.getByRole("button", { name: /^Move Espresso Roast.* up$/ }).click();
    await page.getByRole("button", { name: /^Remove Espresso Roast/ }).click();
    assert.deepEqual(await ids("#history"), [second, ...others]);
    assert.match((await focused()) ?? "", /^Remove Dark Roast/);
    await settled();
    same(await shown("#recommendations"), ask([second, ...others], { domain: "kitchenware" }).items);
    await page.getByRole("button", { name: "Clear" }).click();
    assert.deepEqual(await ids("#history"), []);
    assert.match(await note(), /most popular/);
    assert.deepEqual(problems, []);
  });

  test("a long history is cut to what the model looks back on, and says so", async () => {
    const box = page.getByRole("combobox", { name: "Add an item" });
    for (let n = 0; n < 53; n++) {
      await box.click();
      for (let down = 0; down <= n % 7; down++) await page.keyboard.press("ArrowDown");
      await page.keyboard.press("Enter");
    }
    const history = await ids("#history");
    assert.equal(history.length, 53);
    assert.match(await page.locator("#history-note").innerText(), /newest 50 of 53/);
    await settled();
    const expected = ask(history, { domain: "kitchenware" });
    same(await shown("#recommendations"), expected.items);
    same(await shown("#influences"), expected.history);
  });

  test("nothing overflows on a phone, in light and in dark", async () => {
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      for (const width of [320, 375, 768, 1280]) {
        await page.setViewportSize({ width, height: 800 });
        await page.getByRole("button", { name: "home baker" }).click();
        await page.getByRole("radio", { name: "by history" }).check();
        await settled();
        const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        assert.ok(over <= 0, `${over} pixels too wide at ${width}`);
      }
    }
  });

  test("Python's server, from another machine by plain http, where the browser has no SHA-256", async () => {
    const server = spawn(python, [
      "-u",
      "-m",
      "http.server",
      "--bind",
      "127.0.0.1",
      "--directory",
      built.out,
      "0",
    ]);
    try {
      const [line] = await once(server.stdout, "data");
      const other = await browser.newPage();
      await ready(other, `http://shop.test:${/port (\d+)/.exec(String(line))?.[1]}/`);
      assert.equal(await other.evaluate(() => window.isSecureContext), false);
      assert.equal(await other.locator("#recommendations li").count(), 10);
      await other.close();
    } finally {
      server.kill();
    }
  });

  test("a server that unpacks what is packed", async () => {
    const unpacks = (name, bytes) => (name.endsWith(".gz") ? gunzipSync(bytes) : bytes);
    const other = await serve({ "/": built.out }, unpacks);
    const visitor = await browser.newPage();
    await ready(visitor, other.url);
    await visitor.close();
    await other.close();
  });

  const note = () => page.locator("#answer-note").innerText();

  /** Ids of the items that an element shows. */
  const ids = (root) =>
    page.locator(`${root} [data-id]`).evaluateAll((all) => all.map((one) => one.getAttribute("data-id")));

  /** Ids and values, unrounded, of the items that an element shows. */
  const shown = (root) =>
    page
      .locator(`${root} [data-id]`)
      .evaluateAll((all) =>
        all.map((one) => [one.getAttribute("data-id"), Number(one.querySelector("data")?.value)]),
      );

  /** Wait until the newest answer is shown. */
  const settled = () => page.waitForFunction(() => document.documentElement.dataset.ready === "true");
});

async function ready(page, url) {
  await page.goto(url);
  await page.waitForFunction(
    () =>
      document.documentElement.dataset.ready === "true" || document.getElementById("error")?.hidden === false,
    null,
    { timeout: 60_000 },
  );
  assert.equal(await page.locator("#error-message").textContent(), "");
}

function same(found, expected) {
  assert.deepEqual(
    found.map(([id]) => id),
    expected.map(([id]) => id),
  );
  found.forEach(([id, value], i) => {
    assert.ok(Math.abs(value - (expected[i][1] ?? 0)) <= 1e-4, `${id}: ${value}, expected ${expected[i][1]}`);
  });
}
