/**
 * A reply's tokens: recorded as they arrive, and put together to text again when a branch begins in their midst.
 */

import type { ReplyStep } from "../api/server";
import type { WireTokenChoice } from "../api/wire";
import type { Alternative, Part, PartKind, Token } from "./message";

/** The mark that ends a reply. */
export const END_OF_REPLY = "<|assistant_end|>";
/** The mark after which the server puts in what the tool answered. */
const END_OF_CALL = "<|python_end|>";

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
  return sampled.length === step.ids.length ? sampled : withGiven(step.ids, sampled);
}

/** Between one closed call and the next, what was given stands first. */
function withGiven(ids: readonly number[], sampled: readonly Token[]): Token[] {
  const endId = sampled.find((token) => token.text === END_OF_CALL)?.ids[0];
  const idRuns = cutAfter(ids, (id) => id === endId);
  return cutAfter(sampled, (token) => token.text === END_OF_CALL).flatMap((run, index) => {
    const idRun = idRuns[index] ?? [];
    const given = idRun.slice(0, Math.max(0, idRun.length - run.length));
    return given.length > 0 ? [givenToken(given), ...run] : run;
  });
}

/** The list, cut after each entry that `ends`; the last run may be empty. */
function cutAfter<T>(list: readonly T[], ends: (entry: T) => boolean): T[][] {
  const runs: T[][] = [[]];
  for (const entry of list) {
    runs.at(-1)!.push(entry);
    if (ends(entry)) {
      runs.push([]);
    }
  }
  return runs;
}

function givenToken(ids: number[]): Token {
  return { ids, text: "", logprob: null, alternatives: [], origin: "given" };
}

/** The tokens, where those that were given say what they stand for: the reply's outputs, in order. */
export function withOutputs(tokens: readonly Token[], parts: readonly Part[]): Token[] {
  const outputs = parts.filter((part) => part.kind === "output");
  return tokens.map((token) => (token.origin === "given" ? { ...token, text: outputs.shift()?.text ?? token.text } : token));
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

/**
 * `parts` and what was added to them. Text joins a part of its kind before it; an empty call or output is the
 * beginning of another, which may follow one of the same kind.
 */
export function appendParts(parts: readonly Part[], added: readonly Part[]): Part[] {
  const joined = [...parts];
  for (const part of added) {
    const last = joined.at(-1);
    if (last?.kind === part.kind && (part.text !== "" || part.kind === "text")) {
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
