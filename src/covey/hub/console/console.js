// @ts-check
/**
 * The console page: signing in, the team, and one session's transcript with a place to write.
 *
 * Everything it shows comes from streams, so a reload, a lost connection and a second page need no code of their own.
 */

import { Feed } from "./feed.js";
import { call, randomId, Refusal, request } from "./hub.js";
import { indentAfter, looksComplete } from "./python.js";
import { button, element, isAtEnd, renderCode, Transcript } from "./transcript.js";

/**
 * @typedef {import("./feed.js").FeedState} FeedState
 * @typedef {{name: string, kind: string, state: string, stream?: string}} Teammate
 * @typedef {{session: string, element: HTMLElement, status: HTMLElement, isArrived: boolean}} Sending
 */

// Tabs that nobody looks at give their connections back: a browser has six for a host.
const HIDDEN_MS_MAX = 10_000;
const ROSTER_MS = 150;
const COMPOSER_ROWS_MAX = 14;
const INDENT = "    ";

/** @template {HTMLElement} T @param {string} id @param {new () => T} type @returns {T} */
function part(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new TypeError(`the page has no ${type.name} #${id}`);
  return found;
}

const page = {
  signIn: part("sign-in", HTMLElement),
  signInForm: part("sign-in-form", HTMLFormElement),
  signInMessage: part("sign-in-message", HTMLElement),
  token: part("token", HTMLInputElement),
  console: part("console", HTMLElement),
  sessionName: part("session-name", HTMLElement),
  connection: part("connection", HTMLElement),
  newSession: part("new-session", HTMLButtonElement),
  roster: part("roster", HTMLElement),
  scroller: part("scroller", HTMLElement),
  transcript: part("transcript", HTMLElement),
  outbox: part("outbox", HTMLElement),
  empty: part("empty", HTMLElement),
  latest: part("latest", HTMLButtonElement),
  problem: part("problem", HTMLElement),
  composer: part("composer", HTMLFormElement),
  code: part("code", HTMLTextAreaElement),
  interrupt: part("interrupt", HTMLButtonElement),
};

/** @type {Feed | null} */
let team = null;
/** @type {Feed | null} */
let output = null;
let session = "";
/** @type {Teammate[]} */
let teammates = [];
/** @type {Map<string, Sending>} cells on their way, by id */
const sending = new Map();
/** Where in the history the arrow keys are; its length when they are not in it. */
let historyPlace = 0;

const transcript = new Transcript(page.transcript, page.scroller, {
  answer: async (id, text) => {
    // Only silence is a reason to repeat it: a refusal means that someone else was first.
    await call(session, "input", { id, text }, randomId(), (refusal) => refusal.status === 0);
  },
  leave: () => page.code.focus(),
  changed: () => {
    page.interrupt.disabled = !transcript.isBusy;
    showTitle();
  },
});

// -- signing in

/** Take the token out of the address before anything else: it must not stay in the bar, the history or a bookmark. */
function takeToken() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token === null) return null;
  fragment.delete("token");
  const rest = fragment.toString();
  history.replaceState(null, "", location.pathname + location.search + (rest ? `#${rest}` : ""));
  return token;
}

/** @param {string} token */
async function signIn(token) {
  try {
    await request("POST", "v1/login", { token });
  } catch (error) {
    const isWrong = error instanceof Refusal && error.status >= 400 && error.status < 500;
    return askForToken(isWrong ? "The hub does not accept this token." : messageOf(error));
  }
  await enter("");
}

/** @param {string} message */
function askForToken(message) {
  leave();
  page.signInMessage.textContent = message;
  page.signIn.hidden = false;
  page.token.value = "";
  page.token.focus();
}

/** Show the team if the cookie lets us. @param {string} otherwise what to say if it does not */
async function enter(otherwise) {
  try {
    await refreshRoster();
  } catch (error) {
    return askForToken(error instanceof Refusal && error.status === 401 ? otherwise : messageOf(error));
  }
  page.signIn.hidden = true;
  page.console.hidden = false;
  team?.close();
  team = new Feed("team", "now", {
    // What happened between the first look and the beginning of the stream is in this second look.
    event: () => void refreshRoster().catch(() => {}),
    control: (kind) => void (kind === "covey.open" && refreshRoster().catch(() => {})),
    state: (state) => {
      if (state === "signed out") askForToken("The sign-in is no longer valid.");
      else if (!output) showConnection(state);
    },
  });
  openSession();
}

function leave() {
  team?.close();
  output?.close();
  team = output = null;
  session = "";
  page.console.hidden = true;
}

// -- the team

let rosterTimer = 0;

/** The team's stream tells who comes and goes; what a session is doing shows in its transcript. */
function refreshRosterSoon() {
  rosterTimer ||= setTimeout(() => {
    rosterTimer = 0;
    if (session) void refreshRoster().catch(() => {});
  }, ROSTER_MS);
}

async function refreshRoster() {
  teammates = (await request("GET", "v1/teammates")).teammates;
  // repl-2 comes before repl-10.
  teammates.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  showRoster();
}

function showRoster() {
  const { activeElement } = document;
  const focused = activeElement instanceof HTMLAnchorElement ? activeElement.hash : null;
  page.roster.replaceChildren(...teammates.map(rosterItem));
  // The items are new ones; whoever walks through them by keyboard stays where they were.
  for (const link of page.roster.querySelectorAll("a")) if (link.hash === focused) link.focus();
  page.roster.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  showComposer();
}

/** @param {Teammate} teammate @returns {HTMLElement} */
function rosterItem({ name, kind, state }) {
  const link = document.createElement("a");
  link.href = `#${new URLSearchParams({ session: name })}`;
  link.append(element("span", "name", name), element("span", "about", kind === "repl" ? state : `${kind} · ${state}`));
  link.dataset.state = state;
  if (name === session) link.setAttribute("aria-current", "page");
  return element("li", "", [link]);
}

async function newSession() {
  page.newSession.disabled = true;
  try {
    const { name } = await request("POST", "v1/teammates", { kind: "repl" });
    location.hash = String(new URLSearchParams({ session: name }));
    // A name may come again, and then the address does not change.
    openSession();
  } catch (error) {
    showProblem(messageOf(error));
  } finally {
    page.newSession.disabled = false;
  }
}

// -- one session

function openSession() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("session") ?? "";
  if (wanted === session && output && !output.isClosed) return;
  output?.close();
  output = null;
  session = wanted;
  showRoster();
  transcript.clear();
  for (const item of sending.values()) item.element.hidden = item.session !== session;
  page.sessionName.textContent = session;
  page.empty.hidden = session !== "";
  page.interrupt.disabled = true;
  showProblem("");
  showTitle();
  if (!session) return;
  showConnection("connecting");
  output = follow(session);
  void refreshRoster()
    .catch(() => {})
    // On a phone the keyboard would cover the transcript.
    .then(() => matchMedia("(pointer: fine)").matches && page.code.focus());
}

/** @param {string} name @returns {Feed} */
function follow(name) {
  let head = "";
  const caughtUp = (/** @type {string} */ id) => {
    if (id === head) page.transcript.setAttribute("aria-busy", "false");
  };
  return new Feed(`${name}.out`, "start", {
    event: (event) => {
      transcript.apply(event);
      if (event.kind === "cell") arrived(event.data.cell);
      if (["started", "cell", "done", "lost"].includes(event.kind)) refreshRosterSoon();
      caughtUp(event.id);
    },
    control: (kind, data, id) => {
      if (kind === "covey.open") {
        head = data.head;
        // A replay is not read out; what comes after it is.
        page.transcript.setAttribute("aria-busy", "true");
        caughtUp(id);
      } else if (kind === "covey.gap") {
        const lost = typeof data.lost === "number" ? `${data.lost.toLocaleString("en")} events` : "Some events";
        transcript.note(`${lost} of the transcript are no longer kept by the hub and are missing here.`, "warning");
      } else if (kind === "covey.reset") {
        transcript.clear();
        transcript.note("The hub began this transcript anew; what it had before is gone.", "warning");
      }
    },
    state: (state) => {
      if (state === "signed out") askForToken("The sign-in is no longer valid.");
      else showConnection(state);
      if (state === "missing") transcript.note(`There is no session “${name}” on this hub.`, "warning");
      if (state === "ended") transcript.note("This session has ended.", "quiet");
      showComposer();
    },
  });
}

function runCell() {
  const code = page.code.value;
  if (!code.trim() || !session) return;
  page.code.value = "";
  fitComposer();
  transcript.scrollToEnd();
  void send(session, code);
}

/** @param {string} to @param {string} code */
async function send(to, code) {
  const cell = randomId();
  const status = element("span", "status", "sending");
  const head = element("div", "head", [element("div", "code", renderCode(code)), status]);
  const item = { session: to, element: element("article", "block", [head]), status, isArrived: false };
  sending.set(cell, item);
  page.outbox.append(item.element);
  transcript.scrollToEnd();
  try {
    await call(to, "execute", { code, cell }, cell, (refusal) => {
      status.textContent = `${refusal.message} Trying again`;
      return !item.isArrived && !(to === session && output?.isClosed);
    });
    status.textContent = "sent";
  } catch (error) {
    // The transcript has it, and that is the better word.
    if (!item.isArrived) refused(cell, item, code, messageOf(error));
  }
}

/** @param {string} cell */
function arrived(cell) {
  const item = sending.get(cell);
  if (!item) return;
  item.isArrived = true;
  item.element.remove();
  sending.delete(cell);
}

/** @param {string} cell @param {Sending} item @param {string} code @param {string} message */
function refused(cell, item, code, message) {
  const edit = button("Edit", "button");
  edit.addEventListener("click", () => {
    arrived(cell);
    page.code.value = code;
    fitComposer();
    page.code.focus();
  });
  const dismiss = button("Dismiss", "button");
  dismiss.addEventListener("click", () => arrived(cell));
  item.status.textContent = "not sent";
  item.element.dataset.status = "error";
  const notice = element("p", "refused", [message, edit, dismiss]);
  notice.setAttribute("role", "alert");
  item.element.append(notice);
}

async function interrupt() {
  showProblem("");
  try {
    const { state, is_over: isOver } = await call(session, "interrupt", {}, randomId(), () => false);
    if (state === "idle") showProblem("Nothing is running.");
    else if (isOver === false) showProblem("The cell was told to stop and still runs. Code in C stops when it returns to Python.");
  } catch (error) {
    showProblem(messageOf(error));
  }
}

// -- writing

/** @param {KeyboardEvent} event */
function composerKey(event) {
  const { code } = page;
  if (event.isComposing) return;
  const caret = code.selectionStart;
  const hasSelection = caret !== code.selectionEnd;
  if (event.key === "Enter" && !event.shiftKey && (event.ctrlKey || event.metaKey || isReady())) {
    event.preventDefault();
    runCell();
  } else if (event.key === "Enter" && !event.altKey) {
    event.preventDefault();
    insert(`\n${indentAfter(code.value.slice(0, caret).split("\n").at(-1) ?? "")}`);
  } else if (event.key === "Backspace" && !hasSelection && /(^|\n)( {4})+$/.test(code.value.slice(0, caret))) {
    event.preventDefault();
    code.setRangeText("", caret - INDENT.length, caret, "end");
    fitComposer();
  } else if (event.key === "c" && event.ctrlKey && !hasSelection && transcript.isBusy) {
    event.preventDefault();
    void interrupt();
  } else if (event.key === "ArrowUp" && !code.value.slice(0, caret).includes("\n")) {
    recall(event, -1);
  } else if (event.key === "ArrowDown" && !code.value.slice(caret).includes("\n")) {
    recall(event, 1);
  }
}

/** Whether Enter runs it: a complete line, or several that end in a blank one, as at Python's own prompt. */
function isReady() {
  const { value, selectionStart } = page.code;
  const isAtLastLine = !value.slice(selectionStart).trim();
  return looksComplete(value) || (isAtLastLine && /\n[ \t]*$/.test(value) && !/[:\\]\s*$/.test(value));
}

/** @param {KeyboardEvent} event @param {-1 | 1} step */
function recall(event, step) {
  const { history } = transcript;
  // What was written and not run is not thrown away for something older.
  const isPristine = page.code.value === (history[historyPlace] ?? "");
  if (!isPristine) historyPlace = history.length;
  if (!isPristine && page.code.value) return;
  const place = Math.min(Math.max(historyPlace + step, 0), history.length);
  if (place === historyPlace) return;
  event.preventDefault();
  historyPlace = place;
  page.code.value = history[place] ?? "";
  fitComposer();
}

/** @param {string} text */
function insert(text) {
  page.code.setRangeText(text, page.code.selectionStart, page.code.selectionEnd, "end");
  fitComposer();
}

function fitComposer() {
  if (!page.code.value) historyPlace = transcript.history.length + 1;
  page.code.rows = Math.min(COMPOSER_ROWS_MAX, page.code.value.split("\n").length);
}

// -- what is shown around it

function showComposer() {
  const kind = teammates.find(({ name }) => name === session)?.kind;
  page.composer.hidden = !session || kind !== "repl" || (output?.isClosed ?? true);
}

/** @param {FeedState} state */
function showConnection(state) {
  page.connection.dataset.state = state;
  page.connection.textContent = state;
}

/** @param {string} message */
function showProblem(message) {
  page.problem.textContent = message;
  page.problem.hidden = !message;
}

function showTitle() {
  document.title = [transcript.isBusy ? "●" : "", session, session ? "· covey" : "covey"].filter(Boolean).join(" ");
}

/** @param {unknown} error @returns {string} */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

function eachFeed() {
  return [team, output].filter((feed) => feed !== null && !feed.isClosed);
}

// -- start

page.signInForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const pasted = page.token.value.trim();
  void signIn(new URLSearchParams(pasted.split("#")[1] ?? "").get("token") ?? pasted);
});
page.newSession.addEventListener("click", () => void newSession());
page.roster.addEventListener("click", ({ target }) => {
  const link = target instanceof Element ? target.closest("a") : null;
  if (link && link.hash === location.hash) openSession();
});
page.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  runCell();
});
page.code.addEventListener("keydown", composerKey);
page.code.addEventListener("input", fitComposer);
page.interrupt.addEventListener("click", () => void interrupt());
page.scroller.addEventListener("scroll", () => {
  page.latest.hidden = isAtEnd(page.scroller);
});
page.latest.addEventListener("click", () => {
  transcript.scrollToEnd();
});

let hiddenTimer = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiddenTimer);
  if (document.hidden) hiddenTimer = setTimeout(() => eachFeed().forEach((feed) => feed?.pause()), HIDDEN_MS_MAX);
  else eachFeed().forEach((feed) => feed?.resume());
});
addEventListener("online", () => eachFeed().forEach((feed) => feed?.resume()));
addEventListener("hashchange", () => void start("hashchange"));

/** @param {"load" | "hashchange"} cause */
async function start(cause) {
  const token = takeToken();
  if (token !== null) await signIn(token);
  else if (cause === "load") await enter("Sign in with the hub's token.");
  else if (!page.console.hidden) openSession();
}

void start("load");
