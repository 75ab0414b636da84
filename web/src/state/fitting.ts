/**
 * What of a conversation the model is shown: all of it, or, once it has outgrown the context, its newest turns.
 *
 * Asking the server to count takes a request, so it is only asked where a safe estimate does not settle it.
 */

import type { Server } from "../api/server";
import { RefusedError } from "../api/errors";
import { toolsOf } from "../conversation/entries";
import { messagesForModel, turnsToLeaveOut, type SentMessage } from "../conversation/for-model";
import type { Message, Settings } from "../conversation/message";
import { t } from "../messages/language";

/** A reply is given this share of the context at least, unless its limit is lower still. */
const REPLY_SHARE = 4;
/** The marks around a message, and those of a tool call in it. */
const MARKS_PER_MESSAGE = 8;

/** Far more than any tokenizer makes of a text on average. */
const MOST_BYTES_PER_TOKEN = 64;

export interface Fitted {
  messages: SentMessage[];
  /** The first message that is sent; null if none had to be left out. */
  seenFrom: string | null;
}

/** The room kept free for the reply. */
export function roomForReply(settings: Settings, contextLength: number): number {
  return Math.min(settings.max_tokens ?? contextLength, Math.floor(contextLength / REPLY_SHARE));
}

/**
 * The messages to send, with `prefix` tokens of the reply already there. `isExact` has the server count even if
 * the estimate fits. Throws RefusedError with the code context_length_exceeded if it cannot be made to fit.
 */
export async function fit(
  server: Server,
  model: string,
  path: readonly Message[],
  settings: Settings,
  contextLength: number | null,
  prefix: number,
  isExact: boolean,
  signal: AbortSignal,
): Promise<Fitted> {
  const all = messagesForModel(settings.system, path);
  const whole = { messages: all, seenFrom: null };
  // A call and what was answered to it go together, and are not told apart from other turns here.
  if (contextLength === null || settings.keepWhole || all.some(({ wire }) => wire.role === "tool")) {
    return whole;
  }
  const room = prefix + roomForReply(settings, contextLength);
  const described = settings.tools === undefined ? 0 : new TextEncoder().encode(settings.tools).length;
  if (!isExact && described + atMost(all) + room <= contextLength) {
    return whole;
  }
  // What certainly does not fit need not be counted, and by the megabyte would not be.
  const messages = withinReach(all, contextLength * MOST_BYTES_PER_TOKEN);
  if (messages === null) {
    const message = t.problem.farTooLong(contextLength);
    throw new RefusedError(400, message, "context_length_exceeded", "messages", null);
  }
  const tools = settings.tools === undefined ? undefined : toolsOf(settings.tools);
  const counted = await server.tokenize(
    model,
    messages.map(({ wire }) => wire),
    messages.at(-1)?.wire.role !== "assistant",
    signal,
    tools,
  );
  // The turn that the reply will fill may be listed, too.
  const sizes = counted.messages.slice(0, messages.length).map(({ start, end }) => end - start);
  const leaveOut = (needed: number) => turnsToLeaveOut(messages, sizes, counted.count, needed, contextLength);
  // A reply that goes on and cannot have its share of room has what there is.
  const leftOut = leaveOut(room) ?? (prefix > 0 ? leaveOut(prefix + 1) : null);
  if (leftOut === null) {
    const message =
      prefix > 0
        ? t.problem.contextFull(contextLength)
        : t.problem.messageTakes(sizes.at(-1) ?? counted.count, contextLength);
    throw new RefusedError(400, message, "context_length_exceeded", "messages", null);
  }
  if (leftOut === 0 && messages.length === all.length) {
    return whole;
  }
  const kept = messages.filter(({ wire }, index) => wire.role === "system" || index >= leftOut + systems(messages));
  return { messages: kept, seenFrom: kept.find(({ source }) => source !== null)?.source ?? null };
}

function systems(messages: readonly SentMessage[]): number {
  return messages[0]?.wire.role === "system" ? 1 : 0;
}

/** The system message and the newest turns that have at most `most` bytes together; null if not even the last has. */
function withinReach(messages: readonly SentMessage[], most: number): SentMessage[] | null {
  const first = systems(messages);
  let begin = messages.length - 1;
  let size = atMost([messages[begin]!, ...messages.slice(0, first)]);
  if (size > most) {
    return null;
  }
  for (; begin - 2 >= first; begin -= 2) {
    size += atMost(messages.slice(begin - 2, begin));
    if (size > most) {
      break;
    }
  }
  return [...messages.slice(0, first), ...messages.slice(Math.max(first, begin))];
}

/** A bound on the tokens: no token is shorter than a byte. */
function atMost(messages: readonly SentMessage[]): number {
  const encoder = new TextEncoder();
  return messages.reduce((sum, { wire }) => {
    const parts = wire.chatsmith?.parts ?? [{ text: wire.content }];
    const bytes = parts.reduce((total, part) => total + encoder.encode(part.text).length, 0);
    return sum + bytes + MARKS_PER_MESSAGE + 2 * parts.length;
  }, 1);
}
