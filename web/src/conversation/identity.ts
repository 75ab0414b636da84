/** Names for conversations and messages, and an order in time that two of them never share. */

/** A random id. `crypto.randomUUID` is missing on a plain http address, as on a phone that visits a server. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

let last = 0;

/** The time now, in milliseconds, later than any given out before: branches are ordered by it. */
export function newTime(): number {
  last = Math.max(Date.now(), last + 1);
  return last;
}
