// What a person does on the page: node page.mjs FOLDER-OF-THE-PAGE [URL]
// With a URL, a server that runs is asked; SHOT=file.png then takes a picture.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chromium } from "playwright-core";
import { stub } from "./stub.mjs";

const [folder, url] = process.argv.slice(2);
const executablePath = execFileSync("sh", ["-c", "command -v chromium"]).toString().trim();
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });

/** Opens the page; whatever the browser complains of fails the test. */
async function open(address, viewport = { width: 1000, height: 800 }) {
  const page = await browser.newPage({ viewport });
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    const expected = /Failed to load resource.*(401|429|400)/.test(message.text());
    if (message.type() === "error" && !expected) complaints.push(message.text());
  });
  await page.goto(address);
  return { page, complaints };
}

const say = async (page, text) => {
  await page.fill("#prompt", text);
  await page.press("#prompt", "Enter");
};
const ended = (page) => page.waitForSelector("#send:not([hidden])", { timeout: 60000 });
const last = (page) => page.locator("article.assistant").last();

async function withStub() {
  const server = await stub(folder);
  const { page, complaints } = await open(server.url);
  await page.waitForFunction(() => document.querySelectorAll("#model option").length === 2);
  await page.waitForFunction(() => document.querySelector("#queue").textContent === "2 running, 1 waiting");

  console.log("send and stream: text comes bit by bit and is text");
  await page.selectOption("#model", "second");
  await page.click("#open-settings");
  for (const [name, value] of [["system", "Be brief."], ["temperature", "0.5"], ["top_k", "40"], ["max_tokens", "99"]]) {
    await page.fill(`#settings [name=${name}]`, value);
  }
  await page.press("#settings [name=seed]", "Escape");
  await say(page, "show markdown, think and use a tool");
  await page.waitForSelector("article.assistant h2");
  assert.equal(await page.locator("article.assistant pre").count() <= 1, true);
  assert.ok(!(await last(page).textContent()).includes("The end."), "it is not complete yet");
  await ended(page);
  const text = await last(page).textContent();
  assert.ok(text.includes("The end.") && text.includes("77 tokens"), text);
  assert.ok(text.includes("<img src=x onerror"), "HTML is shown as text");
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  for (const [selector, count] of [["img, script, iframe", 0], ["strong", 2], ["em", 1], ["a", 1], ["ol > li", 2], ["li li", 1], ["td", 2], ["blockquote", 1], ["details.reasoning", 1]]) {
    assert.equal(await last(page).locator(selector).count(), count, selector);
  }
  assert.equal(await last(page).locator("a").getAttribute("href"), "https://example.org/x");
  assert.equal(await last(page).locator("pre").first().textContent(), 'fn main() {\n    println!("<i>&amp;");\n}');
  assert.equal(await last(page).locator("pre").last().textContent(), 'add({"a":1})');
  assert.match(await page.textContent("#speed"), /77 tokens · [\d.]+ tokens\/s/);
  const [asked] = server.seen.requests;
  assert.equal(asked.model, "second");
  assert.deepEqual([asked.temperature, asked.top_k, asked.max_tokens, asked.seed], [0.5, 40, 99, undefined]);
  assert.deepEqual(asked.messages[0], { role: "system", content: "Be brief." });

  console.log("stop: by the button and by the keyboard, and the server sees it");
  for (const [count, stop] of [[1, () => page.click("#stop")], [2, () => page.keyboard.press("Escape")]]) {
    await say(page, "endless");
    await page.waitForFunction(() => [...document.querySelectorAll("article.assistant")].pop().textContent.includes("word5"));
    await stop();
    await ended(page);
    assert.match(await last(page).textContent(), /word5.*stopped/);
    for (let n = 0; server.seen.closed < count && n < 100; n++) await page.waitForTimeout(20);
    assert.equal(server.seen.closed, count, "the connection is closed");
  }
  assert.equal(server.seen.requests.at(-1).messages.length, 6, "the conversation goes on");

  console.log("errors are shown and the question is kept");
  for (const [words, shown] of [["refuse", "too many <requests> (try again in 3 s)"], ["break", "the engine broke"], ["cut", "the connection ended early"]]) {
    await say(page, words);
    await ended(page);
    assert.ok((await page.locator(".error[role=alert]").last().textContent()).includes(shown), words);
  }
  await page.click("#new");
  assert.equal(await page.locator("article, .user, .error").count(), 0);
  await page.fill("#prompt", "");
  await page.keyboard.type("a");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("b");
  assert.equal(await page.inputValue("#prompt"), "a\nb");
  assert.deepEqual(complaints, []);
  server.close();
  await say(page, "is anyone there?");
  await ended(page);
  assert.match(await page.locator(".error").last().textContent(), /cannot be reached/);
  assert.equal(await page.inputValue("#prompt"), "is anyone there?");
  await page.close();
}

async function withKey() {
  console.log("an API key is asked for, sent, and kept for the tab alone");
  const server = await stub(folder, "secret");
  const { page, complaints } = await open(server.url);
  await page.waitForSelector("#settings[open]");
  assert.equal(await page.evaluate(() => document.activeElement.name), "key");
  await page.keyboard.type("secret");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelectorAll("#model option").length === 2);
  await page.reload();
  await page.waitForFunction(() => document.querySelectorAll("#model option").length === 2);
  assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0);
  assert.deepEqual(complaints, []);
  await page.close();
  server.close();
}

async function onPhone() {
  console.log("a phone: nothing is wider than the screen, and one can write");
  const server = await stub(folder);
  const { page } = await open(server.url, { width: 360, height: 640 });
  await say(page, "show markdown");
  await ended(page);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(wide <= 0, `${wide} pixels too wide`);
  const box = await page.locator("#composer").boundingBox();
  assert.ok(box.y + box.height <= 641 && box.height > 30, JSON.stringify(box));
  await page.close();
  server.close();
}

async function withServer() {
  console.log("a running server: send, stream, stop, error");
  const { page, complaints } = await open(url, { width: 1000, height: 720 });
  await page.waitForFunction(() => document.querySelectorAll("#model option").length > 0);
  await page.click("#open-settings");
  await page.fill("#settings [name=temperature]", "0");
  await page.fill("#settings [name=max_tokens]", "160");
  await page.keyboard.press("Escape");
  await say(page, process.env.QUESTION ?? "Name three fruits as a numbered list.");
  await page.waitForFunction(() => /\w/.test(document.querySelector("article.assistant > div")?.textContent ?? ""));
  await ended(page);
  const text = await last(page).textContent();
  assert.match(text, /\d+ tokens · [\d.]+ tokens\/s/);
  console.log(text);
  if (process.env.SHOT) await page.screenshot({ path: process.env.SHOT });
  await page.evaluate(() => (document.querySelector("#settings [name=max_tokens]").value = ""));
  await say(page, "Write a very long story about the sea.");
  await page.waitForFunction(() => [...document.querySelectorAll("article.assistant > div")].at(-2).textContent.length > 40);
  await page.click("#stop");
  await ended(page);
  assert.match(await last(page).textContent(), /stopped/);
  await page.evaluate(() => (document.querySelector("#settings [name=max_tokens]").value = "100000000"));
  await say(page, "Hello");
  await page.waitForSelector(".error[role=alert]");
  console.log(await page.locator(".error").textContent());
  await ended(page);
  assert.deepEqual(complaints, []);
  await page.close();
}

try {
  if (url) await withServer();
  else {
    await withStub();
    await withKey();
    await onPhone();
  }
  console.log("the page works");
} finally {
  await browser.close();
}
