// @ts-check
/** Requests to the hub. Addresses are relative, so that the page works under a prefix as well. Source: protocol 3, 6. */

import { backoffMs } from "./feed.js";

// An answer takes milliseconds. One that takes this long was lost on the way, and the request is repeated.
const ANSWER_MS_MAX = 10_000;

/** What the hub refused, or that it did not answer (`status` 0). */
export class Refusal extends Error {
  /** @param {number} status @param {Record<string, any>} problem a problem document, or what there is of one */
  constructor(status, problem) {
    const what = problem["detail"] || problem["title"] || `The hub answered with status ${status}.`;
    super(problem["hint"] ? `${sentence(what)} ${sentence(problem["hint"])}` : sentence(what));
    this.status = status;
    this.isTransient = status === 0 || problem["transient"] === true || [429, 502, 503].includes(status);
    this.retryAfterMs = Number(problem["retry_after_s"] ?? 0) * 1000;
  }
}

/**
 * @param {"GET" | "POST"} method
 * @param {string} path
 * @param {unknown} [body]
 * @param {string} [key] the idempotency key
 * @returns {Promise<any>} the answer's JSON, null when it has none
 * @throws {Refusal}
 */
export async function request(method, path, body, key) {
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key !== undefined) headers["Idempotency-Key"] = key;
  let answer;
  let text;
  try {
    const signal = AbortSignal.timeout(ANSWER_MS_MAX);
    answer = await fetch(path, { method, headers, signal, body: body === undefined ? null : JSON.stringify(body) });
    text = await answer.text();
  } catch {
    throw new Refusal(0, { title: "The hub does not answer." });
  }
  const content = parse(text);
  if (!answer.ok) throw new Refusal(answer.status, content ?? {});
  return content;
}

/**
 * Call a teammate until there is an answer. The key makes a repeat harmless: the hub runs it once.
 * @param {string} teammate
 * @param {string} method
 * @param {Record<string, unknown>} body
 * @param {string} key
 * @param {(refusal: Refusal) => boolean} again called before each repeat; whether to go on
 * @returns {Promise<any>}
 * @throws {Refusal}
 */
export async function call(teammate, method, body, key, again) {
  const path = `v1/call/${encodeURIComponent(teammate)}/${method}`;
  for (let attempt = 0; ; attempt++) {
    try {
      return (await request("POST", path, body, key)).result;
    } catch (error) {
      if (!(error instanceof Refusal) || !error.isTransient || !again(error)) throw error;
      await new Promise((resume) => setTimeout(resume, Math.max(error.retryAfterMs, backoffMs(attempt))));
    }
  }
}

/** @returns {string} 128 random bits; `crypto.randomUUID` is there on https and loopback only */
export function randomId() {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string} text @returns {any} */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** @param {string} text @returns {string} */
function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
