/**
 * Rated replies as files to train on, JSON lines each:
 *
 * - conversations for `chatsmith sft`: the good replies are learned, every other reply only read (`weight` 0);
 * - problems for `chatsmith rl`: what was asked, and the short answer that a good reply gave;
 * - pairs of a good and a bad reply to one message, as other programs' preference training takes them (TRL's form).
 */

import { pathTo } from "../conversation/branches";
import { toolsOf } from "../conversation/entries";
import { callText, messagesForModel, type SentMessage } from "../conversation/for-model";
import { isEmpty, plainText, type Message, type Reply } from "../conversation/message";
import type { StoredConversation } from "../storage/database";

type Line = Record<string, unknown>;

export interface Rated {
  conversations: Line[];
  problems: Line[];
  pairs: Line[];
}

const LONGEST_ANSWER = 60;

export function ratedOf(all: readonly StoredConversation[]): Rated {
  const rated: Rated = { conversations: [], problems: [], pairs: [] };
  for (const { conversation, messages } of all) {
    const byId = new Map(messages.map((message) => [message.id, message]));
    const { system, tools } = conversation.settings;
    const isRated = (message: Message): message is Reply =>
      message.role === "assistant" && message.rating !== undefined && !message.raw && !isEmpty(message);
    const replies = messages.filter(isRated);
    replies.sort((a, b) => a.createdAt - b.createdAt);
    const good = replies.filter(({ rating }) => rating === 1);
    const bad = replies.filter(({ rating }) => rating === -1);
    const before = ({ parent }: Reply) => messagesForModel(system, pathTo(byId, parent));
    // The longest first: what they contain need not be learned twice.
    const learned = new Set<string>();
    const paths = good.map((reply) => ({ reply, path: pathTo(byId, reply.id) })).sort((a, b) => b.path.length - a.path.length);
    for (const { reply, path } of paths) {
      if (!learned.has(reply.id)) {
        const isNew = (id: string | null) => good.some((each) => each.id === id) && !learned.has(id!);
        const sent = messagesForModel(system, path);
        const described = tools === undefined ? {} : { tools: toolsOf(tools) };
        rated.conversations.push({ messages: sent.map((each) => forTraining(each, isNew(each.source))), ...described });
        path.forEach(({ id }) => learned.add(id));
      }
    }
    for (const chosen of good) {
      const answer = answerOf(chosen);
      if (answer !== null) {
        rated.problems.push({ messages: before(chosen).map((each) => forTraining(each)), answer });
      }
      for (const rejected of bad.filter(({ parent }) => parent === chosen.parent)) {
        const reply = (one: Reply) => [{ role: "assistant", content: plainText(one) }];
        const prompt = before(chosen).map(({ wire }) => ({ role: wire.role, content: wire.content }));
        rated.pairs.push({ prompt, chosen: reply(chosen), rejected: reply(rejected) });
      }
    }
  }
  const problems = new Map(rated.problems.map((problem) => [JSON.stringify(problem.messages), problem]));
  return { ...rated, problems: [...problems.values()] };
}

export function toJsonLines(lines: readonly Line[]): string {
  return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
}

function forTraining({ wire }: SentMessage, isLearned = true): Line {
  const parts = wire.chatsmith?.parts.map(({ kind, text }) => ({ type: kind, text }));
  const weight = wire.role === "assistant" && !isLearned ? { weight: 0 } : {};
  const calls = wire.tool_calls?.map((call) => callText(call.function)) ?? [];
  return { role: wire.role, content: parts ?? [wire.content, ...calls].filter((piece) => piece !== "").join("\n"), ...weight };
}

/** What `rl` can check: the last number of a reply if that is whole, else all of a short reply. */
function answerOf(reply: Reply): number | string | null {
  const text = plainText(reply).trim();
  const last = text.match(/-?\d[\d,]*(?:\.\d+)?/g)?.at(-1)?.replace(/,/g, "");
  if (last !== undefined && Number.isSafeInteger(Number(last))) {
    return Number(last);
  }
  return last === undefined && text !== "" && text.length <= LONGEST_ANSWER && !text.includes("\n") ? text : null;
}
