// @ts-check
/** As much of Python's grammar as the page needs: what a line is coloured by, and whether it looks finished. */

/** @typedef {import("./screen.js").Run} Run */

const KEYWORDS =
  "False None True and as assert async await break class continue def del elif else except finally for from global " +
  "if import in is lambda nonlocal not or pass raise return try while with yield";
const PYTHON = new RegExp(
  [
    /(?<comment>#[^\n]*)/,
    /(?<string>(?:\b[rRbBuUfFtT]{1,2})?(?:"""(?:\\[^]|[^\\])*?(?:"""|$)|'''(?:\\[^]|[^\\])*?(?:'''|$)|"(?:\\[^]|[^"\\\n])*"?|'(?:\\[^]|[^'\\\n])*'?))/,
    new RegExp(`(?<keyword>\\b(?:${KEYWORDS.replaceAll(" ", "|")})\\b)`),
    /(?<number>\b(?:0[bBoOxX][\da-fA-F_]+|\d[\d_]*\.?[\d_]*(?:[eE][+-]?\d+)?[jJ]?)\b)/,
    /(?<name>[^\W\d]\w*)/,
  ]
    .map((part) => part.source)
    .join("|"),
  "g",
);
// Colouring a text of this size takes a few milliseconds; more than that nobody reads on a page.
const COLOURED_LENGTH_MAX = 50_000;
const OPENING = "([{";
const CLOSING = ")]}";

/** @param {string} code @returns {Run[]} */
export function highlight(code) {
  if (code.length > COLOURED_LENGTH_MAX) return [{ text: code, style: "" }];
  /** @type {Run[]} */
  const runs = [];
  let end = 0;
  for (const token of code.matchAll(PYTHON)) {
    if (token.index > end) runs.push({ text: code.slice(end, token.index), style: "" });
    runs.push({ text: token[0], style: kindOf(token) });
    end = token.index + token[0].length;
  }
  if (end < code.length) runs.push({ text: code.slice(end), style: "" });
  return runs;
}

/** Whether Enter should run it: one line that is no beginning of a longer statement. @param {string} code */
export function looksComplete(code) {
  if (code.includes("\n") || !code.trim()) return false;
  let bare = "";
  for (const { text, style } of highlight(code)) {
    if (style === "string" && isOpen(text)) return false;
    if (style !== "string" && style !== "comment") bare += text;
  }
  const depth = [...bare].reduce((sum, c) => sum + Number(OPENING.includes(c)) - Number(CLOSING.includes(c)), 0);
  return depth <= 0 && !/[:\\]\s*$/.test(bare) && !/^\s*@/.test(bare);
}

/** @param {string} line @returns {string} what the line after it begins with */
export function indentAfter(line) {
  const own = /^[ \t]*/.exec(line)?.[0] ?? "";
  return /:\s*(#.*)?$/.test(line) ? `${own}    ` : own;
}

/** @param {string} text a string token @returns {boolean} */
function isOpen(text) {
  const quote = /"""|'''/.exec(text.slice(0, 5))?.[0];
  return quote !== undefined && (text.indexOf(quote) + 3 > text.length - 3 || !text.endsWith(quote));
}

/** @param {RegExpMatchArray} token @returns {string} */
function kindOf(token) {
  const groups = token.groups ?? {};
  return ["comment", "string", "keyword", "number"].find((kind) => groups[kind] !== undefined) ?? "";
}
