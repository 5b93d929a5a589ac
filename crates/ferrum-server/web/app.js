// The chat page.

import { ApiError, chat, models, queue } from "./api.js";
import { code, markdown } from "./markdown.js";

const $ = (id) => document.getElementById(id);
const [log, prompt, settings] = [$("log"), $("prompt"), $("settings")];
const fields = settings.querySelector("form").elements;
const STORED = "ferrum";

/** The conversation as the API wants it, without the system prompt. */
let messages = [];
/** Stops the answer that is coming. */
let running = null;

// Settings live as long as the tab.
try {
  const stored = JSON.parse(sessionStorage.getItem(STORED) ?? "{}");
  for (const [name, value] of Object.entries(stored)) if (fields[name]) fields[name].value = value;
} catch {
  // A browser without storage: they live as long as the page.
}

function store() {
  try {
    sessionStorage.setItem(STORED, JSON.stringify(Object.fromEntries(new FormData(settings.querySelector("form")))));
  } catch {
    // As above.
  }
}

/** The request for an answer to the conversation. */
function request() {
  const all = { model: $("model").value, messages: [...messages] };
  if (fields.system.value.trim()) all.messages.unshift({ role: "system", content: fields.system.value });
  for (const name of ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"]) {
    if (fields[name].value !== "" && fields[name].checkValidity()) all[name] = Number(fields[name].value);
  }
  if (!all.model) delete all.model;
  return all;
}

function add(name, kind, text) {
  $("empty").hidden = true;
  const node = document.createElement(name);
  node.className = kind;
  if (text !== undefined) node.textContent = text;
  log.append(node);
  return node;
}

function showError(error) {
  const text = error instanceof ApiError ? error.message : `The server cannot be reached: ${error.message}`;
  add("div", "error", text).setAttribute("role", "alert");
  if (error.status === 401) openSettings("key");
}

/** Scrolls along while the reader is at the end. */
function follow(change) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

/** The node of one answer and what it shows. */
class Answer {
  constructor() {
    this.node = add("article", "assistant");
    this.reasoning = null;
    this.content = document.createElement("div");
    this.foot = document.createElement("div");
    this.foot.className = "foot";
    this.node.append(this.content, this.foot);
    this.text = "";
    this.thought = "";
    this.calls = [];
    this.tokens = 0;
    this.usage = null;
    this.start = performance.now();
    this.first = null;
    this.pending = false;
    this.cost = 0;
  }

  take(chunk) {
    this.usage = chunk.usage ?? this.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const delta = choice.delta ?? {};
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    if (delta.content || thought || delta.tool_calls) {
      this.first ??= performance.now();
      this.tokens += 1;
    }
    this.text += delta.content ?? "";
    this.thought += thought;
    for (const call of delta.tool_calls ?? []) {
      const known = (this.calls[call.index] ??= { name: "", json: "" });
      known.name += call.function?.name ?? "";
      known.json += call.function?.arguments ?? "";
    }
    this.reason = choice.finish_reason ?? this.reason;
    this.later();
  }

  /** Shows what is new with the next frame, less often where that takes long. */
  later() {
    if (this.pending) return;
    this.pending = true;
    setTimeout(() => requestAnimationFrame(() => this.show()), 4 * this.cost);
  }

  show() {
    this.pending = false;
    const start = performance.now();
    follow(() => {
      this.content.replaceChildren(...markdown(this.text));
      for (const call of this.calls.filter(Boolean)) this.content.append(code(`${call.name}(${call.json})`, "tool call"));
      if (this.thought) this.showThought();
    });
    this.cost = performance.now() - start;
    $("speed").textContent = this.speed();
  }

  showThought() {
    if (!this.reasoning) {
      this.reasoning = document.createElement("details");
      this.reasoning.className = "reasoning";
      this.reasoning.append(document.createElement("summary"), document.createElement("div"));
      this.reasoning.firstChild.textContent = "Reasoning";
      this.node.prepend(this.reasoning);
    }
    this.reasoning.lastChild.replaceChildren(...markdown(this.thought));
  }

  speed() {
    const tokens = this.usage?.completion_tokens ?? this.tokens;
    const seconds = ((this.end ?? performance.now()) - (this.first ?? this.start)) / 1000;
    // The first token is not one of those that the time since it was for.
    const speed = tokens > 1 && seconds > 0 ? ` · ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    return tokens ? `${tokens} tokens${speed}` : "";
  }

  finish(note) {
    this.end = performance.now();
    this.show();
    const copy = document.createElement("button");
    copy.type = "button";
    copy.textContent = "Copy";
    copy.addEventListener("click", () => copyText(this.text, copy));
    const words = [this.speed()];
    if (this.first) words.push(`first after ${((this.first - this.start) / 1000).toFixed(2)} s`);
    if (this.reason === "length") words.push("cut: no more tokens are allowed");
    if (note) words.push(note);
    const figures = document.createElement("span");
    figures.textContent = words.filter(Boolean).join(" · ");
    follow(() => this.foot.replaceChildren(copy, figures));
  }
}

async function send(text) {
  const conversation = messages;
  messages.push({ role: "user", content: text });
  add("div", "user", text);
  log.scrollTop = log.scrollHeight;
  const answer = new Answer();
  const stop = (running = new AbortController());
  busy(true);
  let note;
  try {
    for await (const chunk of chat(request(), fields.key.value, stop.signal)) answer.take(chunk);
  } catch (error) {
    if (stop.signal.aborted) note = "stopped";
    else showError(error);
  }
  answer.finish(note);
  if (answer.text) conversation.push({ role: "assistant", content: answer.text });
  else {
    // A question without an answer would be two of the user's turns in a row.
    conversation.pop();
    if (!answer.thought && !answer.calls.length) answer.node.remove();
    if (!prompt.value && conversation === messages) prompt.value = text;
  }
  if (running === stop) {
    running = null;
    busy(false);
  }
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  log.ariaBusy = String(is);
  grow();
  figures();
}

function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

function clear() {
  running?.abort();
  messages = [];
  log.replaceChildren($("empty"));
  $("empty").hidden = false;
  $("speed").textContent = "";
  prompt.focus();
}

function openSettings(field) {
  if (!settings.open) settings.showModal();
  fields[field ?? "system"].focus();
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

async function loadModels() {
  try {
    const names = await models(fields.key.value);
    const chosen = $("model").value;
    $("model").replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(chosen)) $("model").value = chosen;
  } catch (error) {
    showError(error);
  }
}

let timer;
/** Shows the queue, now and every while: often during an answer. */
async function figures() {
  clearTimeout(timer);
  if (!document.hidden) {
    const counts = await queue(fields.key.value).catch(() => null);
    $("queue").textContent = counts ? `${counts.running} running, ${counts.waiting} waiting` : "";
  }
  clearTimeout(timer);
  timer = setTimeout(figures, running ? 1000 : 10000);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value;
  if (running || !text.trim()) return;
  prompt.value = "";
  send(text);
});
prompt.addEventListener("input", grow);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  const control = event.ctrlKey || event.metaKey;
  if (event.key === "Escape" && running && !settings.open) running.abort();
  else if (control && event.key === ",") openSettings();
  else if (control && event.shiftKey && event.key.toLowerCase() === "o") clear();
  else return;
  event.preventDefault();
});
log.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copyText(button.parentElement.querySelector("code").textContent, button);
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", clear);
$("open-settings").addEventListener("click", () => openSettings());
document.addEventListener("visibilitychange", () => document.hidden || figures());
let key = fields.key.value;
settings.addEventListener("close", () => {
  store();
  if (fields.key.value !== key || !$("model").value) loadModels();
  key = fields.key.value;
  prompt.focus();
});
loadModels();
figures();
