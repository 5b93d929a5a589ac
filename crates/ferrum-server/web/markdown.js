// Markdown as DOM nodes. Text of a model is only ever text: no HTML is parsed, and links lead
// nowhere but to http and https.

const LINK = /^https?:\/\//i;

/** Parts within a line; what matches first wins. */
const INLINE = [
  { pattern: /(`+)([^`]|[^`][^]*?[^`])\1(?!`)/, make: (m) => element("code", m[2].replace(/^ (.*[^ ].*) $/s, "$1")) },
  { pattern: /\\([\\`*_{}[\]()#+\-.!~|<>])/, make: (m) => document.createTextNode(m[1]) },
  { pattern: /\[([^\[\]]{1,500})\]\(([^\s()]{1,2000})\)/, make: (m, depth) => link(m[2], inline(m[1], depth)) },
  { pattern: /\*\*(?=\S)([^]*?\S)\*\*/, make: (m, depth) => wrap("strong", inline(m[1], depth)) },
  { pattern: /\*(?=[^\s*])([^*]*?[^\s*])\*/, make: (m, depth) => wrap("em", inline(m[1], depth)) },
  { pattern: /(?<![\w_])_(?=[^\s_])([^_]*?[^\s_])_(?![\w_])/, make: (m, depth) => wrap("em", inline(m[1], depth)) },
  { pattern: /~~(?=\S)([^]*?\S)~~/, make: (m, depth) => wrap("del", inline(m[1], depth)) },
  { pattern: /https?:\/\/[^\s<>"'`]{1,2000}[^\s<>"'`.,;:!?)\]]/i, make: (m) => link(m[0], [document.createTextNode(m[0])]) },
];

/** The longest paragraph whose inside is looked at: patterns take time by the square of it. */
const LONGEST = 20000;

/** The longest line that can be anything but text, for the same reason. */
const LONGEST_LINE = 2000;

function element(name, text) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  return node;
}

function wrap(name, children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

function link(target, children) {
  if (!LINK.test(target)) return wrap("span", children);
  const node = wrap("a", children);
  node.href = target;
  node.target = "_blank";
  node.rel = "noopener noreferrer nofollow";
  return node;
}

/** The nodes of a line or a paragraph. */
function inline(text, depth = 0) {
  if (depth > 6 || text.length > LONGEST) return [document.createTextNode(text)];
  const nodes = [];
  while (text) {
    let first = null;
    for (const part of INLINE) {
      const match = part.pattern.exec(text);
      if (match && (!first || match.index < first.match.index)) first = { part, match };
    }
    if (!first) break;
    const { part, match } = first;
    if (match.index) nodes.push(document.createTextNode(text.slice(0, match.index)));
    nodes.push(part.make(match, depth + 1));
    text = text.slice(match.index + match[0].length);
  }
  if (text) nodes.push(document.createTextNode(text));
  return nodes;
}

/** A block of code with a button that copies it. */
export function code(text, language) {
  const box = element("div");
  box.className = "code";
  const pre = element("pre");
  const inner = element("code", text);
  if (language) inner.title = language;
  pre.append(inner);
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.dataset.copy = "code";
  box.append(pre, copy);
  return box;
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const FENCE = /^\s*(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;

/** A list from its first line on; returns its node. Deeper indentation is a list within. */
function list(lines, indent, depth) {
  const ordered = /^\s*\d/.test(lines[0]);
  const node = element(ordered ? "ol" : "ul");
  if (ordered) node.start = parseInt(lines[0].trim(), 10);
  while (lines.length) {
    const match = lines[0].length > LONGEST_LINE ? null : ITEM.exec(lines[0]);
    if (!match || match[1].length < indent) break;
    if (match[1].length > indent + 1 && node.lastChild && depth < 8) {
      node.lastChild.append(list(lines, match[1].length, depth + 1));
      continue;
    }
    if (/^\d/.test(match[2]) !== ordered) break;
    lines.shift();
    const words = [match[3]];
    // A line that goes on, however it is indented.
    while (lines.length && lines[0].trim() && !begins(lines[0]) && !ITEM.test(lines[0])) words.push(lines.shift().trim());
    node.append(wrap("li", inline(words.join("\n"))));
  }
  return node;
}

function begins(line) {
  return line.length > LONGEST_LINE || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || /^ {0,3}>/.test(line);
}

function cells(line) {
  return line.trim().replace(/^\|/, "").replace(/\|$/, "").split("|").map((cell) => cell.trim());
}

function table(lines) {
  const row = (name, line) => wrap("tr", cells(line).map((cell) => wrap(name, inline(cell))));
  const node = element("table");
  node.append(wrap("thead", [row("th", lines.shift())]));
  lines.shift();
  const body = element("tbody");
  while (lines.length && lines[0].includes("|")) body.append(row("td", lines.shift()));
  node.append(body);
  return node;
}

/** One block, taken off the front of `lines`. */
function block(lines, depth) {
  const line = lines[0];
  if (line.length > LONGEST_LINE) return element("p", lines.shift());
  const fence = FENCE.exec(line);
  if (fence) {
    lines.shift();
    const inside = [];
    const end = (text) => text.trim().startsWith(fence[1]) && !text.trim().replaceAll(fence[1][0], "");
    while (lines.length && !end(lines[0])) inside.push(lines.shift());
    lines.shift();
    return code(inside.join("\n"), fence[2]);
  }
  const heading = HEADING.exec(line);
  if (heading) {
    lines.shift();
    // The page has its own first heading.
    return wrap(`h${Math.min(heading[1].length + 1, 6)}`, inline(heading[2]));
  }
  if (RULE.test(line)) {
    lines.shift();
    return element("hr");
  }
  if (/^ {0,3}>/.test(line)) {
    const inside = [];
    while (lines.length && /^ {0,3}>/.test(lines[0])) inside.push(lines.shift().replace(/^ {0,3}> ?/, ""));
    return depth < 6 ? wrap("blockquote", blocks(inside, depth + 1)) : element("blockquote", inside.join("\n"));
  }
  const item = ITEM.exec(line);
  if (item) return list(lines, item[1].length, 0);
  if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test((lines[1] ?? "").slice(0, LONGEST_LINE))) return table(lines);
  const words = [lines.shift()];
  while (lines.length && lines[0].trim() && !begins(lines[0]) && !ITEM.test(lines[0])) words.push(lines.shift());
  return wrap("p", inline(words.join("\n")));
}

function blocks(lines, depth) {
  const nodes = [];
  while (lines.length) {
    if (lines[0].trim()) nodes.push(block(lines, depth));
    else lines.shift();
  }
  return nodes;
}

/** The nodes of a text. */
export function markdown(text) {
  return blocks(text.split(/\r?\n/), 0);
}
