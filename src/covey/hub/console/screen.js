// @ts-check
/**
 * What a terminal would make of a program's output, as far as lines go: carriage returns, backspaces, erased lines and
 * colours. Text in, runs of styled text out; nothing here touches the document.
 *
 * Source: ECMA-48 for the control sequences; those that move the cursor off its line are dropped.
 */

/**
 * @typedef {{text: string, style: string}} Run   `style` is class names, separated by spaces
 * @typedef {{runs: Run[], length: number, column: number}} Line   `runs` has no more than the first LINE_LENGTH_MAX of it
 * @typedef {"out" | "err" | "result" | "traceback"} Channel
 * @typedef {{foreground: number, background: number, flags: Set<string>}} Rendition
 * @typedef {{rendition: Rendition, style: string, carry: string}} ChannelState
 */

// A longer line is cut and says so: a browser takes seconds to lay out a line of a megabyte.
export const LINE_LENGTH_MAX = 10_000;
// What may be the beginning of a control sequence is held back until the rest comes, up to here.
const CARRY_LENGTH_MAX = 4096;

const CONTROL_OR_TEXT =
  /[^\x00-\x08\x0a-\x1f\x7f]+|\x1b\[([0-?]*)[ -/]*([@-~])|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[^]/g;
const UNFINISHED_CONTROL = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/;

/** @type {Record<number, string>} */
const FLAG_ON = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike" };
/** @type {Record<number, string[]>} */
const FLAG_OFF = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"], 29: ["strike"] };

export class Screen {
  /**
   * @param {(line: Line) => void} opened
   * @param {(line: Line) => void} changed
   */
  constructor(opened, changed) {
    this.opened = opened;
    this.changed = changed;
    /** @type {Line | null} */
    this.line = null;
    /** @type {Map<Channel, ChannelState>} */
    this.channels = new Map();
  }

  /** Begin the next output on a line of its own. */
  breakLine() {
    this.line = null;
  }

  /** @param {Channel} channel @param {string} text */
  write(channel, text) {
    const state = this.channel(channel);
    let whole = state.carry + text;
    const unfinished = UNFINISHED_CONTROL.exec(whole);
    state.carry = unfinished && unfinished[0].length <= CARRY_LENGTH_MAX ? unfinished[0] : "";
    if (state.carry) whole = whole.slice(0, -state.carry.length);
    for (const token of whole.matchAll(CONTROL_OR_TEXT)) this.act(state, channel, token);
  }

  /** @param {Channel} channel @returns {ChannelState} */
  channel(channel) {
    let state = this.channels.get(channel);
    if (!state) {
      state = { rendition: { foreground: -1, background: -1, flags: new Set() }, style: channel, carry: "" };
      this.channels.set(channel, state);
    }
    return state;
  }

  /** @param {ChannelState} state @param {Channel} channel @param {RegExpMatchArray} token */
  act(state, channel, token) {
    const text = token[0];
    if (text === "\n") {
      this.current();
      this.line = null;
    } else if (text === "\r") {
      if (this.line) this.line.column = 0;
    } else if (text === "\b") {
      if (this.line && this.line.column > 0) this.line.column--;
    } else if (token[2] === "m") {
      render(state.rendition, token[1] ?? "");
      state.style = styleOf(channel, state.rendition);
    } else if (token[2] === "K") {
      if (this.line) this.erase(this.line, token[1] ?? "");
    } else if (text.charCodeAt(0) >= 0x20 || text[0] === "\t") {
      if (text !== "\x7f") this.put(this.current(), text, state.style);
    } else if (text[0] !== "\x1b" && text !== "\x07") {
      // The picture of the control character, as NUL in ␀.
      this.put(this.current(), String.fromCharCode(0x2400 + text.charCodeAt(0)), state.style);
    }
  }

  /** @returns {Line} */
  current() {
    if (!this.line) {
      this.line = { runs: [], length: 0, column: 0 };
      this.opened(this.line);
    }
    return this.line;
  }

  /** @param {Line} line @param {string} text @param {string} style */
  put(line, text, style) {
    const fitting = text.slice(0, Math.max(0, LINE_LENGTH_MAX - line.column));
    if (fitting) overwrite(line, { text: fitting, style });
    line.column += text.length - fitting.length;
    line.length = Math.max(line.length, line.column);
    this.changed(line);
  }

  /** @param {Line} line @param {string} which */
  erase(line, which) {
    if (which === "1" || which === "2") {
      const column = line.column;
      line.column = 0;
      overwrite(line, { text: " ".repeat(Math.min(column, LINE_LENGTH_MAX)), style: "out" });
      line.column = column;
    }
    if (which !== "1") {
      line.runs = slice(line.runs, 0, line.column);
      line.length = Math.min(line.length, line.column);
    }
    this.changed(line);
  }
}

/** @param {Line} line @param {Run} run */
function overwrite(line, run) {
  const end = line.column + run.text.length;
  const last = line.runs.at(-1);
  if (line.column < line.length) {
    line.runs = [...slice(line.runs, 0, line.column), run, ...slice(line.runs, end, line.length)];
  } else if (last && last.style === run.style) {
    last.text += run.text;
  } else {
    line.runs.push(run);
  }
  line.column = end;
  line.length = Math.max(line.length, end);
}

/** @param {Run[]} runs @param {number} from @param {number} to @returns {Run[]} */
function slice(runs, from, to) {
  /** @type {Run[]} */
  const kept = [];
  let start = 0;
  for (const { text, style } of runs) {
    const part = text.slice(Math.max(0, from - start), Math.max(0, to - start));
    if (part) kept.push({ text: part, style });
    start += text.length;
  }
  return kept;
}

/** Apply a "select graphic rendition" sequence. @param {Rendition} rendition @param {string} parameters */
function render(rendition, parameters) {
  const codes = parameters.split(/[;:]/).map(Number);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i] ?? 0;
    if (code === 0) Object.assign(rendition, { foreground: -1, background: -1, flags: new Set() });
    else if (FLAG_ON[code]) rendition.flags.add(FLAG_ON[code]);
    else if (FLAG_OFF[code]) FLAG_OFF[code].forEach((flag) => rendition.flags.delete(flag));
    else if (code >= 30 && code <= 37) rendition.foreground = code - 30;
    else if (code >= 90 && code <= 97) rendition.foreground = code - 82;
    else if (code === 39) rendition.foreground = -1;
    else if (code >= 40 && code <= 47) rendition.background = code - 40;
    else if (code >= 100 && code <= 107) rendition.background = code - 92;
    else if (code === 49) rendition.background = -1;
    else if (code === 38 || code === 48) {
      const isIndexed = codes[i + 1] === 5;
      const colour = isIndexed ? indexed(codes[i + 2] ?? 0) : nearest(codes[i + 2] ?? 0, codes[i + 3] ?? 0, codes[i + 4] ?? 0);
      rendition[code === 38 ? "foreground" : "background"] = colour;
      i += isIndexed ? 2 : 4;
    }
  }
}

/** @param {Channel} channel @param {Rendition} rendition @returns {string} */
function styleOf(channel, { foreground, background, flags }) {
  const names = [channel, ...flags];
  if (foreground >= 0) names.push(`fg-${foreground}`);
  if (background >= 0) names.push(`bg-${background}`);
  return names.join(" ");
}

/** @param {number} colour one of 256 @returns {number} one of 16 */
function indexed(colour) {
  if (colour < 16) return colour;
  if (colour >= 232) return nearest(...gray(8 + (colour - 232) * 10));
  const [red, green, blue] = [36, 6, 1].map((step) => Math.floor((colour - 16) / step) % 6);
  return nearest((red ?? 0) * 51, (green ?? 0) * 51, (blue ?? 0) * 51);
}

/** @param {number} level @returns {[number, number, number]} */
function gray(level) {
  return [level, level, level];
}

/**
 * The nearest of the sixteen colours that the page has for light and for dark: any other might not be readable on both.
 * @param {number} red @param {number} green @param {number} blue @returns {number}
 */
function nearest(red, green, blue) {
  const top = Math.max(red, green, blue);
  if (top < 48) return 0;
  const hue = (red > top / 2 ? 1 : 0) | (green > top / 2 ? 2 : 0) | (blue > top / 2 ? 4 : 0);
  if (hue === 7) return top > 210 ? 15 : top > 120 ? 7 : 8;
  return top > 210 ? hue + 8 : hue;
}
