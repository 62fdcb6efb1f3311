// @ts-check
/**
 * A session's transcript on the page. Events go into a model that is bounded at once; the document follows once a frame,
 * so a million printed lines cost the page five thousand. What has left the bound is counted where it stood.
 *
 * Whatever comes from the session is text and stays text: it enters the document by `textContent` alone.
 *
 * Source: protocol 3.1 for the kinds.
 */

import { highlight } from "./python.js";
import { LINE_LENGTH_MAX, Screen } from "./screen.js";

/**
 * @typedef {import("./feed.js").Envelope} Envelope
 * @typedef {import("./screen.js").Line} Line
 * @typedef {import("./screen.js").Run} Run
 * @typedef {import("./screen.js").Channel} Channel
 * @typedef {"queued" | "running" | "ok" | "error" | "interrupted" | "cancelled" | "lost"} Status
 *
 * @typedef {object} Block              a cell, or output that belongs to none
 * @property {string | null} cell
 * @property {HTMLElement} element
 * @property {HTMLElement} output
 * @property {HTMLElement} status
 * @property {Screen} screen
 * @property {Status} state
 * @property {number} startedAt         seconds since 1970
 * @property {number} unitsKept
 * @property {number} linesDropped
 * @property {HTMLElement | null} droppedNote
 * @property {boolean} isHeadDropped
 * @property {boolean} isClearedByNext
 *
 * @typedef {object} Unit               what the bound drops as one
 * @property {Block} block
 * @property {number} weight            in lines
 * @property {HTMLElement | null} node  null for a line until the frame that shows it, and for the head of a block
 * @property {boolean} isHead
 * @property {boolean} isDropped
 *
 * @typedef {object} Actions
 * @property {(id: string, text: string | null) => Promise<void>} answer   rejects with what to tell the reader
 * @property {() => void} leave         the input that had the focus is gone
 * @property {() => void} changed       which cells are not done has changed
 */

const LINES_MAX = 5000;
const IMAGE_WEIGHT = 50;
const CODE_LINES_MAX = 500;
const HISTORY_MAX = 500;
// The shape of base64, which is all that an image's data may be.
const BASE64 = /^[A-Za-z0-9+/\s]*={0,2}\s*$/;
const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
/** @type {Record<Status, string>} */
const STATUS_TEXT = {
  queued: "queued",
  running: "running",
  ok: "",
  error: "error",
  interrupted: "interrupted",
  cancelled: "cancelled",
  lost: "lost",
};

export class Transcript {
  /** @param {HTMLElement} root @param {HTMLElement} scroller @param {Actions} actions */
  constructor(root, scroller, actions) {
    this.root = root;
    this.scroller = scroller;
    this.actions = actions;
    /** @type {string[]} */
    this.history = [];
    this.frame = 0;
    this.isFollowed = true;
    /** @type {Map<string, Block>} */
    this.cells = new Map();
    /** @type {Block[]} cells that are not done, in order */
    this.open = [];
    /** @type {Block | null} the block that output of no cell goes to */
    this.loose = null;
    /** @type {Unit[]} all that is shown and, before `unitsStart`, some that no longer is */
    this.units = [];
    this.unitsStart = 0;
    this.lines = 0;
    this.linesDropped = 0;
    /** @type {HTMLElement | null} */
    this.droppedNote = null;
    /** @type {Map<Line, Unit>} lines whose node does not show them yet */
    this.stale = new Map();
    /** @type {WeakMap<Line, Unit>} */
    this.unitOf = new WeakMap();
    /** @type {Set<Block>} blocks with more lines dropped than their note says */
    this.trimmed = new Set();
    /** @type {Map<string, {element: HTMLElement, cell: string | null, prompt: string}>} */
    this.inputs = new Map();
    /** @type {Map<string, {block: Block, element: HTMLElement}>} */
    this.displays = new Map();
    this.lastDoneAt = 0;
  }

  clear() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.root.replaceChildren();
    this.droppedNote = null;
    this.loose = null;
    this.open = [];
    this.units = [];
    this.unitsStart = this.lines = this.linesDropped = this.lastDoneAt = this.history.length = 0;
    for (const known of [this.cells, this.stale, this.trimmed, this.inputs, this.displays]) known.clear();
  }

  get isBusy() {
    return this.open.length > 0;
  }

  /** @param {Envelope} event */
  apply(event) {
    this.schedule();
    const data = event.data ?? {};
    const cell = typeof data.cell === "string" ? data.cell : null;
    switch (event.kind) {
      case "started":
        return this.started(event);
      case "cell":
        return this.begin(event);
      case "stdout":
        return this.write(cell, "out", textOf(data));
      case "stderr":
        return this.write(cell, "err", textOf(data));
      case "result":
        return this.show(cell, "result", data.mime ?? {}, null, false);
      case "display":
        return this.show(cell, "out", data.mime ?? {}, data.display_id ?? null, data.update === true);
      case "clear":
        return this.clearOutput(this.block(cell), data.wait === true);
      case "traceback":
        return this.paragraph(cell, "traceback", String(data.text || `${data.name}: ${data.message}`));
      case "input":
        return this.ask(cell, String(data.id), String(data.prompt ?? ""), data.password === true);
      case "input_taken":
        return this.answered(String(data.id), data.by ?? event.by);
      case "done":
        return this.done(cell, data.status, event.time);
      case "lost":
        return this.lost(data);
      case "limit":
        return this.note(`A limit was reached: ${describe(data.which ?? data)}`, "warning");
      default:
        return this.note(`${event.kind} ${describe(event.data)}`, "quiet");
    }
  }

  /**
   * Add a line from the page itself, outside of any cell.
   * @param {string} text
   * @param {"quiet" | "warning"} tone
   */
  note(text, tone) {
    this.schedule();
    const block = this.newBlock(null);
    block.element.classList.add("note", tone);
    block.output.textContent = text;
    this.add({ block, weight: 1, node: null, isHead: true, isDropped: false });
    this.loose = null;
  }

  // -- cells

  /** @param {Envelope} event */
  started({ data }) {
    const again = data.incarnation > 1 ? "A fresh process; nothing of the old one's state is left" : "Session started";
    const about = [String(data.banner ?? "").split("\n")[0], data.pid && `process ${data.pid}`].filter(Boolean).join(", ");
    this.note(about ? `${again} · ${about}` : again, "quiet");
  }

  /** @param {Envelope} event */
  begin(event) {
    const { cell, code } = event.data;
    const block = this.newBlock(cell);
    this.cells.set(cell, block);
    this.loose = null;
    const lines = renderCode(String(code));
    const by = event.data.by ?? event.by;
    const head = element("div", "head", [element("div", "code", lines), element("span", "by", by ? String(by) : "")]);
    head.append(block.status);
    block.element.prepend(head);
    block.startedAt = Math.max(event.time, this.lastDoneAt);
    this.open.push(block);
    this.showStates();
    if (this.history.at(-1) !== code) this.history.push(code);
    if (this.history.length > HISTORY_MAX) this.history.shift();
    this.add({ block, weight: lines.length, node: null, isHead: true, isDropped: false });
  }

  /** @param {string | null} cell @param {Status} status @param {number} time */
  done(cell, status, time) {
    const block = cell === null ? undefined : this.cells.get(cell);
    if (!block) return;
    this.dropInputs(cell);
    const wasRunning = this.open[0] === block;
    this.open = this.open.filter((other) => other !== block);
    block.state = status;
    const took = time - Math.max(block.startedAt, this.lastDoneAt);
    const words = [STATUS_TEXT[status] ?? String(status), wasRunning ? duration(took) : ""];
    block.status.textContent = words.filter(Boolean).join(" · ");
    block.element.dataset.status = status;
    this.lastDoneAt = time;
    this.showStates();
    this.removeIfEmpty(block);
  }

  showStates() {
    this.open.forEach((block, place) => {
      const state = place === 0 ? "running" : "queued";
      if (block.element.dataset.status === state) return;
      block.state = state;
      block.element.dataset.status = state;
      block.status.textContent = STATUS_TEXT[state];
    });
    this.actions.changed();
  }

  /** @param {{exit?: number | null, signal?: number | string | null, state?: string, reason?: string}} data */
  lost({ exit, signal, state, reason }) {
    this.dropInputs(null);
    const how = signal ? ` by signal ${signal}` : typeof exit === "number" ? ` with exit code ${exit}` : "";
    const what = reason ? `The session was lost: ${reason}.` : `The session's process ended${how}.`;
    if (state === "stopped") this.note(what, "quiet");
    else this.note(`${what} Its state is lost; the next cell starts a fresh one.`, "warning");
  }

  // -- output

  /** @param {string | null} cell @param {Channel} channel @param {string} text */
  write(cell, channel, text) {
    const block = this.block(cell);
    this.clearIfDue(block);
    const { screen } = block;
    // A line that was begun long ago may have left the bound; what comes now needs one that is shown.
    if (screen.line && this.unitOf.get(screen.line)?.isDropped) screen.breakLine();
    screen.write(channel, text);
  }

  /** Text that stands on lines of its own. @param {string | null} cell @param {Channel} channel @param {string} text */
  paragraph(cell, channel, text) {
    const { screen } = this.block(cell);
    screen.breakLine();
    this.write(cell, channel, text);
    screen.breakLine();
  }

  /**
   * @param {string | null} cell
   * @param {"result" | "out"} channel
   * @param {Record<string, unknown>} bundle
   * @param {string | null} displayId
   * @param {boolean} isUpdate
   */
  show(cell, channel, bundle, displayId, isUpdate) {
    const plain = asText(bundle["text/plain"]);
    const type = IMAGES.find((name) => typeof bundle[name] === "string" && BASE64.test(String(bundle[name])));
    const known = displayId === null ? undefined : this.displays.get(displayId);
    if (!type && displayId === null) {
      // HTML would have to be shown in a sandbox of its own; until then it is its source.
      const text = plain || asText(bundle["text/html"]) || `(${Object.keys(bundle).join(", ")})`;
      return this.paragraph(cell, channel, text);
    }
    const node = type ? image(type, String(bundle[type]), plain) : element("div", `line ${channel}`, plain);
    if (isUpdate) {
      known?.element.replaceChildren(node);
      return;
    }
    const holder = element("div", "rich", [node]);
    const block = this.block(cell);
    this.clearIfDue(block);
    block.screen.breakLine();
    this.place(block, holder);
    this.add({ block, weight: IMAGE_WEIGHT, node: holder, isHead: false, isDropped: false });
    if (displayId !== null) this.displays.set(displayId, { block, element: holder });
  }

  /** @param {Block} block @param {boolean} isClearedByNext */
  clearOutput(block, isClearedByNext) {
    block.isClearedByNext = isClearedByNext;
    if (isClearedByNext) return;
    block.screen.breakLine();
    for (let i = this.unitsStart; i < this.units.length; i++) {
      const unit = this.units[i];
      if (unit && unit.block === block && !unit.isHead) this.drop(unit);
    }
    block.linesDropped = 0;
    this.trimmed.add(block);
  }

  /** @param {Block} block */
  clearIfDue(block) {
    if (block.isClearedByNext) this.clearOutput(block, false);
  }

  // -- input

  /** @param {string | null} cell @param {string} id @param {string} prompt @param {boolean} isPassword */
  ask(cell, id, prompt, isPassword) {
    const block = this.block(cell);
    block.screen.breakLine();
    const field = document.createElement("input");
    field.type = isPassword ? "password" : "text";
    field.autocomplete = "off";
    field.spellcheck = false;
    field.setAttribute("aria-label", prompt.trim() || "Input for the running cell");
    const send = button("Send", "submit");
    send.className = "primary";
    const end = button("End of file", "button");
    end.className = "plain";
    const problem = element("span", "problem", "");
    problem.setAttribute("role", "alert");
    const form = document.createElement("form");
    form.className = "input";
    form.append(element("span", "input-prompt", prompt), field, send, end, problem);
    const answer = (/** @type {string | null} */ text) => {
      problem.textContent = "";
      this.actions.answer(id, text).catch((error) => {
        problem.textContent = error.message;
      });
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      answer(field.value);
    });
    end.addEventListener("click", () => answer(null));
    this.inputs.set(id, { element: form, cell, prompt });
    this.place(block, form);
    if (!isTyping()) field.focus({ preventScroll: true });
  }

  /** @param {string} id @param {string | null} by */
  answered(id, by) {
    const input = this.inputs.get(id);
    if (!input) return;
    const hadFocus = input.element.contains(document.activeElement);
    this.removeInput(id);
    this.paragraph(input.cell, "out", `${input.prompt}\x1b[2m(answered${by ? ` by ${by}` : ""})\x1b[22m`);
    if (hadFocus) this.actions.leave();
  }

  /** @param {string | null} cell null for all */
  dropInputs(cell) {
    for (const [id, input] of this.inputs) if (cell === null || input.cell === cell) this.removeInput(id);
  }

  /** @param {string} id */
  removeInput(id) {
    this.inputs.get(id)?.element.remove();
    this.inputs.delete(id);
  }

  // -- blocks and their bound

  /** @param {string | null} cell @returns {Block} */
  block(cell) {
    const known = cell === null ? this.loose : this.cells.get(cell);
    if (known) return known;
    const block = this.newBlock(cell);
    block.element.classList.add("loose");
    if (cell === null) this.loose = block;
    else this.cells.set(cell, block);
    this.add({ block, weight: 0, node: null, isHead: true, isDropped: false });
    return block;
  }

  /** @param {string | null} cell @returns {Block} */
  newBlock(cell) {
    const output = element("div", "output", "");
    const article = element("article", "block", [output]);
    if (cell !== null) article.dataset.cell = cell;
    const screen = new Screen(
      (line) => {
        const unit = { block, weight: 1, node: null, isHead: false, isDropped: false };
        this.unitOf.set(line, unit);
        this.stale.set(line, unit);
        this.add(unit);
      },
      (line) => {
        const unit = this.unitOf.get(line);
        if (unit && !unit.isDropped) this.stale.set(line, unit);
      },
    );
    /** @type {Block} */
    const block = {
      cell,
      element: article,
      output,
      status: element("span", "status", ""),
      screen,
      state: "ok",
      startedAt: 0,
      unitsKept: 0,
      linesDropped: 0,
      droppedNote: null,
      isHeadDropped: false,
      isClearedByNext: false,
    };
    this.root.append(article);
    return block;
  }

  /** @param {Unit} unit */
  add(unit) {
    this.units.push(unit);
    this.lines += unit.weight;
    unit.block.unitsKept += unit.isHead ? 0 : 1;
    while (this.lines > LINES_MAX && this.unitsStart < this.units.length - 1) {
      const oldest = this.units[this.unitsStart++];
      if (oldest) this.drop(oldest);
    }
    if (this.unitsStart > LINES_MAX) {
      this.units.splice(0, this.unitsStart);
      this.unitsStart = 0;
    }
  }

  /** @param {Unit} unit */
  drop(unit) {
    if (unit.isDropped) return;
    const { block } = unit;
    unit.isDropped = true;
    this.lines -= unit.weight;
    if (unit.isHead) {
      block.isHeadDropped = true;
    } else {
      block.unitsKept--;
      block.linesDropped += unit.weight;
      unit.node?.remove();
    }
    this.trimmed.add(block);
    this.removeIfEmpty(block);
  }

  /** A head stays until the last of its output goes, so that no output stands without its code. @param {Block} block */
  removeIfEmpty(block) {
    if (!block.isHeadDropped || block.unitsKept > 0 || this.open.includes(block)) return;
    if (!block.element.isConnected) return;
    this.linesDropped += block.linesDropped + block.element.querySelectorAll(".code-line, .note > .output").length;
    block.element.remove();
    this.trimmed.delete(block);
    if (block.cell !== null) this.cells.delete(block.cell);
    if (this.loose === block) this.loose = null;
    for (const [id, display] of this.displays) if (display.block === block) this.displays.delete(id);
  }

  // -- the document

  /** Must come before the document is changed, for whether the reader was at its end cannot be told afterwards. */
  schedule() {
    if (this.frame) return;
    this.isFollowed = isAtEnd(this.scroller);
    this.frame = requestAnimationFrame(() => this.flush());
  }

  /** Put an element after the lines so far, which may still wait for their frame. @param {Block} block @param {HTMLElement} node */
  place(block, node) {
    this.showLines();
    block.output.append(node);
    const { isFollowed } = this;
    node.querySelector("img")?.addEventListener("load", () => {
      if (isFollowed) this.scrollToEnd();
    });
  }

  /** Bring the document up to the model. */
  flush() {
    this.frame = 0;
    this.showLines();
    for (const block of this.trimmed) {
      block.droppedNote = droppedNote(block.droppedNote, block.output, block.linesDropped);
    }
    this.trimmed.clear();
    this.droppedNote = droppedNote(this.droppedNote, this.root, this.linesDropped);
    if (this.isFollowed) this.scrollToEnd();
  }

  showLines() {
    for (const [line, unit] of this.stale) if (!unit.isDropped) showLine(line, unit);
    this.stale.clear();
  }

  scrollToEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }
}

/** @param {Line} line @param {Unit} unit */
function showLine(line, unit) {
  if (!unit.node) {
    unit.node = element("div", "line", "");
    unit.block.output.append(unit.node);
  }
  const runs = line.runs.map(({ text, style }) => element("span", style, text));
  const beyond = line.length - LINE_LENGTH_MAX;
  if (beyond > 0) runs.push(element("span", "cut", ` … ${beyond.toLocaleString("en")} more characters not shown`));
  // A line without a box would be left out when it is copied.
  unit.node.replaceChildren(...(runs.length > 0 ? runs : [document.createElement("br")]));
}

/** @param {HTMLElement | null} note @param {HTMLElement} holder @param {number} lines @returns {HTMLElement | null} */
function droppedNote(note, holder, lines) {
  if (lines === 0) {
    note?.remove();
    return null;
  }
  const shown = note ?? element("p", "dropped", "");
  if (!note) holder.prepend(shown);
  shown.textContent = `${lines.toLocaleString("en")} earlier ${lines === 1 ? "line" : "lines"} not shown`;
  return shown;
}

/** @param {string} code @returns {HTMLElement[]} */
export function renderCode(code) {
  /** @type {HTMLElement[]} */
  let line = [];
  const lines = [line];
  for (const { text, style } of highlight(code.replace(/\n+$/, ""))) {
    text.split("\n").forEach((part, place) => {
      if (place > 0) lines.push((line = []));
      line.push(element("span", style, part));
    });
  }
  const hidden = lines.splice(CODE_LINES_MAX).length;
  const rows = lines.map((spans, place) => element("div", "code-line", [prompt(place), ...spans]));
  if (hidden > 0) rows.push(element("div", "code-line cut", `${hidden.toLocaleString("en")} more lines of code not shown`));
  return rows;
}

/** @param {number} place @returns {HTMLElement} */
function prompt(place) {
  const shown = element("span", "prompt", place === 0 ? ">>> " : "... ");
  shown.setAttribute("aria-hidden", "true");
  return shown;
}

/** @param {string} type @param {string} base64 @param {string} description @returns {HTMLElement} */
function image(type, base64, description) {
  const shown = document.createElement("img");
  shown.src = `data:${type};base64,${base64.replace(/\s/g, "")}`;
  shown.alt = description;
  return shown;
}

/** Whether the focus is where someone has begun to write. */
function isTyping() {
  const { activeElement } = document;
  return activeElement instanceof HTMLTextAreaElement && activeElement.value !== "";
}

/** @param {HTMLElement} scroller */
export function isAtEnd(scroller) {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
}

/**
 * @param {string} tag
 * @param {string} className
 * @param {string | (Node | string)[]} content
 * @returns {HTMLElement}
 */
export function element(tag, className, content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (typeof content === "string") made.textContent = content;
  else made.append(...content);
  return made;
}

/** @param {string} label @param {"submit" | "button"} type @returns {HTMLButtonElement} */
export function button(label, type) {
  const made = document.createElement("button");
  made.type = type;
  made.textContent = label;
  return made;
}

/** @param {{text?: string, base64?: string}} data @returns {string} */
function textOf(data) {
  if (typeof data.base64 !== "string") return String(data.text ?? "");
  return new TextDecoder().decode(Uint8Array.from(atob(data.base64), (c) => c.charCodeAt(0)));
}

/** @param {unknown} value a MIME bundle's text, which Jupyter's also give as a list of lines @returns {string} */
function asText(value) {
  return Array.isArray(value) ? value.join("") : typeof value === "string" ? value : "";
}

/** @param {unknown} value @returns {string} */
function describe(value) {
  return typeof value === "string" ? value : JSON.stringify(value) ?? "";
}

/** @param {number} seconds @returns {string} */
function duration(seconds) {
  if (!(seconds >= 0.05)) return "";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
