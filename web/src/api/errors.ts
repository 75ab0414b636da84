/** What can go wrong between the page and the server, as errors that carry what a person needs to act. */

import { t } from "../messages/language";
import type { WireError } from "./wire";

/** The server answered, and said no. */
export class RefusedError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code: string | null,
    readonly parameter: string | null,
    /** Seconds after which the server asks to be tried again, if it said so. */
    readonly retryAfter: number | null,
  ) {
    super(message);
  }
}

/** The server cannot be reached. */
export class UnreachableError extends Error {
  constructor() {
    super(t.problem.unreachable);
  }
}

/** The connection ended in the middle of a reply. */
export class LostError extends Error {
  constructor(message = t.problem.lost) {
    super(message);
  }
}

/** The error that a response with a status of 400 or more stands for. */
export async function refusal(response: Response): Promise<RefusedError> {
  const body = (await response.json().catch(() => null)) as { error?: WireError } | null;
  const error = body?.error ?? {};
  const seconds = Number(response.headers.get("retry-after"));
  return new RefusedError(
    response.status,
    error.message ?? t.problem.status(response.status),
    error.code == null ? null : String(error.code),
    error.param ?? null,
    Number.isFinite(seconds) && seconds > 0 ? seconds : null,
  );
}
