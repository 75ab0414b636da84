/** A shown path as the messages that are sent to the server. */

import type { WireMessage } from "../api/wire";
import { isEmpty, plainText, type Call, type Message, type Reply } from "./message";

/** A message as it is sent, and which message it came from (null: the system message). */
export interface SentMessage {
  source: string | null;
  wire: WireMessage;
}

/**
 * The conversation for the model. User and assistant must take turns and an assistant says something, so a
 * question whose reply failed or came out empty is left out together with it.
 */
export function messagesForModel(system: string | undefined, path: readonly Message[]): SentMessage[] {
  const sent: SentMessage[] = [];
  if (system?.trim()) {
    sent.push({ source: null, wire: { role: "system", content: system } });
  }
  for (const [index, message] of path.entries()) {
    const next = path[index + 1];
    if (message.role === "user" && message.results !== undefined) {
      for (const { id, text } of message.results) {
        sent.push({ source: message.id, wire: { role: "tool", tool_call_id: id, content: text } });
      }
    } else if (message.role === "user") {
      sent.push({ source: message.id, wire: { role: "user", content: message.text } });
    } else if (isEmpty(message)) {
      sent.pop();
    } else {
      const isAnswered = next?.role === "user" && next.results !== undefined;
      sent.push({ source: message.id, wire: replyForModel(message, isAnswered) });
    }
  }
  return sent;
}

/** A call as the model wrote it. */
export function callText({ name, arguments: given }: Omit<Call, "id">): string {
  return `<tool_call>{"name": ${JSON.stringify(name)}, "arguments": ${given}}</tool_call>`;
}

/** A reply as the server takes it back, its calls included; those that nobody answered, as the text that they were. */
export function replyForModel(reply: Reply, isAnswered = false): WireMessage {
  const calls = reply.calls ?? [];
  const asText = calls.map(callText);
  const text = plainText(reply);
  if (calls.length > 0 && isAnswered) {
    const tool_calls = calls.map(({ id, ...called }) => ({ id, type: "function" as const, function: called }));
    return { role: "assistant", content: text, tool_calls };
  }
  const wire: WireMessage = { role: "assistant", content: [text, ...asText].filter((piece) => piece !== "").join("\n") };
  if (reply.parts.some((part) => part.kind !== "text")) {
    wire.chatsmith = { parts: reply.parts.filter((part) => part.kind !== "text" || part.text !== "") };
  }
  return wire;
}

/**
 * How many of the oldest sent messages to leave out so that `room` tokens fit behind the rest of the prompt.
 *
 * `sizes` holds the tokens of each message, marks included, `total` those of the whole prompt. Whole turns go, a
 * user's message with the reply to it; the system message and the last message stay. Returns null if even that
 * is not enough.
 */
export function turnsToLeaveOut(
  sent: readonly SentMessage[],
  sizes: readonly number[],
  total: number,
  room: number,
  contextLength: number,
): number | null {
  const first = sent[0]?.wire.role === "system" ? 1 : 0;
  let leftOut = 0;
  for (let rest = total; rest + room > contextLength; leftOut += 2) {
    const next = first + leftOut;
    if (next + 2 >= sent.length) {
      return null;
    }
    rest -= (sizes[next] ?? 0) + (sizes[next + 1] ?? 0);
  }
  return leftOut;
}
