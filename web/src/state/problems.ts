/** What went wrong, in the words and the kind of remedy that the page shows. */

import { LostError, RefusedError, UnreachableError } from "../api/errors";
import type { Problem } from "../conversation/message";
import { t } from "../messages/language";

const BUSY_SECONDS = 3;
const LOADING_SECONDS = 2;

/** The problem that `error` is. Rethrows what is none of the server's: a mistake of our own must be seen. */
export function problemOf(error: unknown): Problem {
  if (error instanceof UnreachableError) {
    return { kind: "unreachable", message: t.problem.isServing };
  }
  if (error instanceof LostError) {
    return { kind: "lost", message: error.message };
  }
  if (!(error instanceof RefusedError)) {
    throw error;
  }
  const { message } = error;
  if (error.status === 429) {
    return { kind: "busy", message, retryAt: inSeconds(error.retryAfter ?? BUSY_SECONDS) };
  }
  if (error.status === 503) {
    return { kind: "loading", message, retryAt: inSeconds(error.retryAfter ?? LOADING_SECONDS) };
  }
  if (error.status === 401) {
    // The server's own words are for programs: they name a header.
    return { kind: "key", message: t.key.asked };
  }
  if (error.code === "context_length_exceeded") {
    return { kind: "context", message };
  }
  if (error.code === "model_not_found") {
    return { kind: "model", message };
  }
  return { kind: "refused", message };
}

function inSeconds(seconds: number): number {
  return Date.now() + 1000 * seconds;
}
