// @ts-check
/**
 * One stream of the hub as the page reads it: the browser's EventSource, and what that leaves to us, which is to find
 * out why it gave up, to notice a connection that went silent, and to go on after the last event when we open it again.
 *
 * Source: protocol 1 and 2.
 */

/**
 * @typedef {{id: string, time: number, kind: string, data: any, by: string | null, key: string | null}} Envelope
 * @typedef {"connecting" | "live" | "reconnecting" | "ended" | "missing" | "signed out"} FeedState
 * @typedef {object} Listener
 * @property {(event: Envelope) => void} event
 * @property {(kind: string, data: any, id: string) => void} control
 * @property {(state: FeedState) => void} state
 */

const CONTROLS = ["covey.open", "covey.gap", "covey.reset", "covey.end", "covey.bye", "covey.heartbeat"];
const BACKOFF_MS_MAX = 5000;
const BACKOFF_MS_MIN = 100;
// A hub's silence lasts 1.2 heartbeats at most; after 2.5 the connection is taken for dead.
const SILENT_HEARTBEATS_MAX = 2.5;

/** @param {number} attempt from 0 @returns {number} milliseconds, with full jitter */
export function backoffMs(attempt) {
  return Math.random() * Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** attempt);
}

export class Feed {
  /**
   * @param {string} stream
   * @param {"start" | "now"} from
   * @param {Listener} listener
   */
  constructor(stream, from, listener) {
    this.stream = stream;
    this.from = from;
    this.listener = listener;
    this.cursor = "";
    this.heartbeatMs = 15000;
    this.attempt = 0;
    this.isClosed = false;
    this.isPaused = false;
    /** @type {EventSource | null} */
    this.source = null;
    /** @type {number | undefined} */
    this.timer = undefined;
    this.open();
  }

  open() {
    this.stop();
    if (this.isClosed || this.isPaused) return;
    const start = this.cursor ? `after=${encodeURIComponent(this.cursor)}` : `from=${this.from}`;
    const source = new EventSource(`v1/streams/${encodeURIComponent(this.stream)}?as=event&${start}`);
    this.source = source;
    source.onmessage = (message) => {
      this.seen(message.lastEventId);
      this.listener.event(JSON.parse(message.data));
    };
    for (const kind of CONTROLS) {
      source.addEventListener(kind, (message) => this.control(kind, /** @type {MessageEvent} */ (message)));
    }
    source.onerror = () => {
      if (this.source !== source) return;
      this.listener.state("reconnecting");
      if (source.readyState === EventSource.CLOSED) void this.findOut();
      // The browser tries again by itself; should that hang, we do.
      else this.watch();
    };
    this.watch();
  }

  /** Let the connection go but keep the place: browsers have six for a host, shared by all its tabs. */
  pause() {
    this.isPaused = true;
    this.stop();
  }

  /** Open again after `pause`, or at once when the browser would still wait. */
  resume() {
    const isWaiting = this.isPaused || this.source === null || this.source.readyState !== EventSource.OPEN;
    this.isPaused = false;
    if (isWaiting) this.open();
  }

  close() {
    this.isClosed = true;
    this.stop();
  }

  stop() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  /** @param {string} kind @param {MessageEvent} message */
  control(kind, message) {
    const data = JSON.parse(message.data);
    this.seen(message.lastEventId);
    if (kind === "covey.open") {
      this.attempt = 0;
      if (typeof data.heartbeat_s === "number") this.heartbeatMs = data.heartbeat_s * 1000;
      this.listener.state("live");
    }
    this.listener.control(kind, data, message.lastEventId);
    if (kind === "covey.end") this.finish("ended");
  }

  /** @param {string} id */
  seen(id) {
    if (id) this.cursor = id;
    this.watch();
  }

  watch() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.listener.state("reconnecting");
      this.open();
    }, SILENT_HEARTBEATS_MAX * this.heartbeatMs);
  }

  /** EventSource does not say which status made it give up, so ask for the same stream in a form that does. */
  async findOut() {
    this.stop();
    let status = 0;
    let isEnded = false;
    try {
      const answer = await fetch(`v1/streams/${encodeURIComponent(this.stream)}?from=now`, {
        headers: { Accept: "application/json" },
      });
      status = answer.status;
      isEnded = answer.ok && (await answer.json()).ended;
    } catch {
      // No answer, or half of one: the hub is away, and that is what trying again is for.
    }
    if (this.isClosed) return;
    if (isEnded) this.finish("ended");
    else if (status === 401 || status === 403) this.finish("signed out");
    else if (status === 404) this.finish("missing");
    else this.timer = setTimeout(() => this.open(), backoffMs(this.attempt++));
  }

  /** @param {FeedState} state */
  finish(state) {
    this.close();
    this.listener.state(state);
  }
}
