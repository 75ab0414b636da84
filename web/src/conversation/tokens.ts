/**
 * A reply's tokens: recorded as they arrive, and put together to text again when a branch begins in their midst.
 */

import type { ReplyStep } from "../api/server";
import type { WireTokenChoice } from "../api/wire";
import type { Alternative, Part, PartKind, Token } from "./message";

/** The mark that ends a reply. */
export const END_OF_REPLY = "<|assistant_end|>";

const MARKS: Readonly<Record<string, PartKind>> = {
  "<|python_start|>": "python",
  "<|python_end|>": "text",
  "<|output_start|>": "output",
  "<|output_end|>": "text",
};

/** Whether a token's text is the name of a special token. Ordinary text is never one token of this shape. */
export function isSpecial(text: string): boolean {
  return /^<\|[a-z0-9_]+\|>$/.test(text);
}

/** The probability, 0 to 1, of a token or an alternative. */
export function probability(of: { logprob: number | null }): number | null {
  return of.logprob === null ? null : Math.exp(of.logprob);
}

/** All ids of a run of tokens. */
export function idsOf(tokens: readonly Token[]): number[] {
  return tokens.flatMap((token) => token.ids);
}

/**
 * The tokens that one step of a reply brings.
 *
 * Every sampled token has its log-probability; ids without one were given to the model. Those are a tool's
 * output and stand right after the mark that closed the call, so one run of them is one entry.
 */
export function tokensOfStep(step: ReplyStep): Token[] {
  const sampled = step.logprobs.map((entry): Token => ({
    ...choice(entry),
    ids: [entry.id],
    alternatives: entry.top_logprobs.map((option) => ({ ...choice(option), id: option.id, logprob: option.logprob })),
    logprob: entry.logprob,
    origin: "sampled",
  }));
  if (sampled.length === step.ids.length) {
    return sampled;
  }
  const output = step.parts
    .filter((part) => part.kind === "output")
    .map((part) => part.text)
    .join("");
  return withGiven(step.ids, sampled, output);
}

function withGiven(ids: readonly number[], sampled: readonly Token[], output: string): Token[] {
  const tokens: Token[] = [];
  let missing = ids.length - sampled.length;
  let place = 0;
  for (const [index, token] of sampled.entries()) {
    const next = sampled[index + 1];
    tokens.push(token);
    place = Math.max(ids.indexOf(token.ids[0]!, place), place) + 1;
    if (missing > 0 && token.text === "<|python_end|>") {
      const end = next ? ids.indexOf(next.ids[0]!, place + 1) : ids.length;
      const given = ids.slice(place, end < 0 ? place + missing : end);
      missing -= given.length;
      place += given.length;
      tokens.push(givenToken(given, output));
    }
  }
  if (missing > 0) {
    tokens.push(givenToken(ids.slice(ids.length - missing), output));
  }
  return tokens;
}

function givenToken(ids: number[], text: string): Token {
  return { ids, text, logprob: null, alternatives: [], origin: "given" };
}

function choice(wire: WireTokenChoice): { text: string; bytes?: number[] } {
  const isBroken = wire.token.includes("\ufffd") && wire.bytes != null;
  return { text: wire.token, ...(isBroken && { bytes: wire.bytes! }) };
}

/**
 * The parts that a run of tokens says. Half a character at the end is left out: what follows completes it.
 */
export function partsOfTokens(tokens: readonly Token[]): Part[] {
  const parts: Part[] = [];
  let kind: PartKind = "text";
  let bytes: number[] = [];
  const finish = () => {
    const text = new TextDecoder().decode(new Uint8Array(bytes), { stream: true });
    bytes = [];
    if (text !== "" || kind !== "text") {
      parts.push({ kind, text });
    }
  };
  for (const token of tokens) {
    const mark = MARKS[token.text];
    if (token.origin === "given") {
      finish();
      parts.push({ kind: "output", text: token.text });
      kind = "text";
    } else if (mark) {
      finish();
      kind = mark;
    } else if (!isSpecial(token.text)) {
      bytes.push(...(token.bytes ?? new TextEncoder().encode(token.text)));
    }
  }
  finish();
  return parts;
}

/** `parts` and what was added to them: neighbours of one kind are one part. */
export function appendParts(parts: readonly Part[], added: readonly Part[]): Part[] {
  const joined = [...parts];
  for (const part of added) {
    const last = joined.at(-1);
    if (last?.kind === part.kind) {
      joined[joined.length - 1] = { kind: last.kind, text: last.text + part.text };
    } else {
      joined.push(part);
    }
  }
  return joined;
}

/** A token that a person chose in the place of `token`. */
export function pickedToken(token: Token, alternative: Alternative): Token {
  const { id, text, bytes, logprob } = alternative;
  return { ids: [id], text, ...(bytes && { bytes }), logprob, alternatives: token.alternatives, origin: "picked" };
}
