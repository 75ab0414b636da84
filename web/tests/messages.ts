/** Messages to test with. */

import type { Part, Reply, Token, UserMessage } from "../src/conversation/message";

export function said(id: string, parent: string | null, createdAt: number, text = id): UserMessage {
  return { role: "user", id, conversation: "talk", parent, createdAt, text };
}

export function reply(id: string, parent: string, createdAt: number, parts: Part[] = [{ kind: "text", text: id }]): Reply {
  return {
    role: "assistant",
    id,
    conversation: "talk",
    parent,
    createdAt,
    parts,
    tokens: [],
    state: "done",
    model: "tiny",
    figures: null,
    problem: null,
    seenFrom: null,
  };
}

export function token(text: string, id: number, more: Partial<Token> = {}): Token {
  return { ids: [id], text, logprob: -0.5, alternatives: [], origin: "sampled", ...more };
}
