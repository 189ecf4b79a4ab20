/** The page's modules in Chromium answer what Python answers. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { build, browserFolder, launch, modelsFolder, python, serve, skip } from "./serve.mjs";

const TOLERANCE = 1e-4;
const TIE = 1e-5; // two float32 products of that difference may change places

describe("answers", { skip }, () => {
  let page, browser, built, server, cases, found;

  before(async () => {
    built = await build();
    const bundles = path.join(built.folder, "bundles");
    execFileSync(python, [path.join(browserFolder, "test/answers.py"), modelsFolder, bundles]);
    cases = JSON.parse(await readFile(path.join(bundles, "cases.json"), "utf8"));
    server = await serve({
      "/": built.out,
      "/bundles/": bundles,
      "/bundles/demo/": path.join(modelsFolder, "demo"),
      "/one/": built.out,
      "/one/bundle/": path.join(bundles, "one"),
      "/three/": built.out,
      "/three/bundle/": path.join(bundles, "three"),
    });
    browser = await launch();
    page = await browser.newPage();
    await page.goto(server.url);
    found = await page.evaluate(
      answerAll,
      cases.map(({ bundle, history, options }) => ({ bundle, history, options })),
    );
    console.log(
      `${cases.length} requests, slowest of their kind, ms: ${JSON.stringify(summary(cases, found))}`,
    );
  });

  after(async () => {
    await browser?.close();
    await server?.close();
    await built?.remove();
  });

  test("the requests cover what there is", () => {
    const explained = cases.filter((one) => one.answer.explanation);
    const settingsWith = (pattern) => explained.filter((one) => pattern.test(one.answer.explanation.setting));
    for (const pattern of [/^off$/, /^insert /, /^add /]) {
      assert.ok(settingsWith(pattern).length > 10, `${pattern} is rare`);
    }
    assert.ok(settingsWith(/^kitchen: add .*; garden: add /).length, "no history lacks two domains");
    for (const wanted of ["food,kitchen", "food,garden"]) {
      const several = cases.filter(
        ({ bundle, options }) =>
          bundle === "three" &&
          []
            .concat(options.domain ?? [])
            .sort()
            .join() === wanted.split(",").sort().join(),
      );
      const ofEach = several.map(({ answer }) => new Set(answer.items.map((item) => item.domain)).size);
      assert.ok(ofEach.includes(2), `no answer has items of ${wanted}`);
      assert.ok(
        several.some(({ answer }) => answer.fallback),
        `nobody gets the most popular of ${wanted}`,
      );
    }
    assert.ok(cases.some((one) => one.answer.fallback));
    assert.ok(cases.some((one) => one.answer.unknownItems.length));
    assert.ok(explained.some((one) => one.answer.explanation.history.some((item) => item.change === null)));
    assert.ok(settingsWith(/^insert .*, weight .* and add /).length > 10, "both experts are rare");
    const cut = explained.filter(({ answer }) => {
      const inserted = answer.explanation.pseudo.map((item) => item.inserted);
      return inserted.includes(true) && inserted.includes(false);
    });
    assert.ok(cut.length, "no history leaves room for some of the pseudo items alone");
    const isWarmByOld = ({ bundle, history, options }) =>
      bundle === "small" &&
      options.pseudo === "auto" &&
      new Set(history.map((id) => id[0]).filter((kind) => "fk".includes(kind))).size === 2 &&
      new Set(history.slice(-6).map((id) => id[0])).size === 1;
    assert.ok(
      cases.some(isWarmByOld),
      "no item is too old for the recommender and the only one of its domain",
    );
  });

  test("ids, titles and domains are the same, and scores to 1e-4", () => {
    cases.forEach((one, n) => {
      const where = `case ${n} (${one.bundle})`;
      sameItems(found[n].answer.items, one.answer.items, "score", where);
      assert.deepEqual(found[n].answer.unknownItems, one.answer.unknownItems, where);
      assert.equal(found[n].answer.fallback, one.answer.fallback, where);
    });
  });

  test("pseudo items and what history items did are the same", () => {
    cases.forEach((one, n) => {
      const where = `case ${n} (${one.bundle})`;
      const [answer, expected] = [found[n].answer.explanation, one.answer.explanation];
      assert.equal(answer === null, expected === null, where);
      if (!expected) return;
      assert.equal(answer.setting, expected.setting, where);
      sameItems(answer.pseudo, expected.pseudo, "similarity", where);
      answer.pseudo.forEach((item, i) => assert.equal(item.inserted, expected.pseudo[i].inserted, where));
      assert.deepEqual(answer.history.map(idAndTitle), expected.history.map(idAndTitle), where);
      answer.history.forEach((item, i) => close(item.change, expected.history[i].change, where));
    });
  });

  for (const [bundle, options, expected] of [
    ["three", { domain: "cellar" }, /'cellar', expected 'food' or 'kitchen' or 'garden'/],
    ["three", { domain: ["food", "cellar"] }, /no domain is named 'cellar'/],
    ["three", { domain: [] }, /domain names no domain, expected one at least/],
    ["three", { domain: ["food", "garden"], pseudo: ["f1"] }, /names need the one domain that is asked for/],
    ["three", { pseudo: ["f1"] }, /names need the one domain that is asked for/],
    ["one", { domain: "food", pseudo: ["f1"] }, /this bundle has no recall network/],
  ]) {
    test(`refused, of ${bundle}: ${JSON.stringify(options)}`, async () => {
      await assert.rejects(page.evaluate(answerAll, [{ bundle, history: ["f2"], options }]), expected);
    });
  }

  for (const [bundle, choices, tags] of [
    ["one", [], ["food"]],
    ["three", ["food", "kitchen", "garden", "all"], ["food", "garden", "kitchen"]],
  ]) {
    test(`the page of a bundle of ${bundle}`, async () => {
      const visitor = await browser.newPage({ viewport: { width: 320, height: 800 } });
      const ready = () => visitor.waitForFunction(() => document.documentElement.dataset.ready === "true");
      await visitor.goto(`${server.url}${bundle}/`);
      await ready();
      const labels = visitor.locator("#domains label:visible");
      assert.deepEqual(await labels.allInnerTexts(), choices);
      if (choices.length) await visitor.getByRole("radio", { name: "all" }).check();
      await visitor.getByRole("combobox", { name: "Add an item" }).fill("food No. 2");
      await visitor.getByRole("option").first().click();
      await ready();
      assert.equal(await visitor.locator("#influences li").count(), 1);
      const shown = await visitor
        .locator("#recommendations [data-id]")
        .evaluateAll((all) => all.map((one) => one.getAttribute("data-id")[0]));
      assert.deepEqual(
        [...new Set(shown)].sort(),
        tags.map((name) => name[0]),
      );
      const over = await visitor.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(over <= 0, `${over} pixels too wide`);
      await visitor.close();
    });
  }
});

/** In the page: answer every request, each bundle loaded once. */
async function answerAll(requests) {
  const { Recommender } = await import("/recommender.js");
  const recommenders = new Map();
  const answers = [];
  for (const { bundle, history, options } of requests) {
    if (!recommenders.has(bundle)) {
      recommenders.set(bundle, await Recommender.load(new URL(`/bundles/${bundle}/`, location.href)));
    }
    const start = performance.now();
    const answer = await recommenders.get(bundle).recommend(history, options);
    answers.push({ answer, milliseconds: performance.now() - start });
  }
  for (const recommender of recommenders.values()) await recommender.close();
  return answers;
}

function sameItems(items, expected, value, where) {
  assert.equal(items.length, expected.length, where);
  items.forEach((item, i) => {
    close(item[value], expected[i][value], `${where}, place ${i}`);
    if (item.id !== expected[i].id) {
      const place = expected.findIndex((one) => one.id === item.id);
      const tied = place >= 0 && Math.abs(expected[place][value] - expected[i][value]) < TIE;
      assert.ok(tied, `${where}, place ${i}: ${item.id}, expected ${expected[i].id}`);
      expected[place].swapped = expected[i].swapped = true;
    } else {
      assert.equal(item.title, expected[i].title, where);
      assert.equal(item.domain, expected[i].domain, where);
    }
  });
}

function close(a, b, where) {
  if (a === null || b === null) assert.equal(a, b, where);
  else assert.ok(Math.abs(a - b) <= TOLERANCE, `${where}: ${a}, expected ${b}`);
}

function idAndTitle({ id, title }) {
  return [id, title];
}

function summary(cases, found) {
  const worst = { plain: 0, explained: 0 };
  cases.forEach((one, n) => {
    const kind = one.options.explain ? "explained" : "plain";
    worst[kind] = Math.max(worst[kind], Number(found[n].milliseconds.toFixed(1)));
  });
  return worst;
}
