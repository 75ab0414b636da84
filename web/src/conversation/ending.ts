/** How a reply ended, and whether it could go on from there. */

import { messagesForModel } from "./for-model";
import type { Message, Reply } from "./message";

/** Whether a reply broke off, with something to go on from. */
export function isUnfinished(reply: Reply): boolean {
  return (reply.state === "cut" || reply.state === "stopped" || reply.state === "lost") && reply.parts.length > 0;
}

/** Whether a reply took the last token of a context of this length; null: of the one that it was written in. */
export function isContextFull(reply: Reply, contextLength: number | null): boolean {
  const { figures } = reply;
  return figures !== null && figures.contextUsed >= (contextLength ?? figures.contextLength ?? Infinity);
}

/** Whether the model saw turns before that of a reply: leaving them out makes room. `path` leads to its question. */
export function sawOlderTurns(reply: Reply, path: readonly Message[]): boolean {
  const seenFrom = reply.seenFrom ?? messagesForModel(undefined, path)[0]?.source;
  return seenFrom !== reply.parent;
}
