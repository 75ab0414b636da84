import { expect, test } from "vitest";
import type { ReplyStep } from "../src/api/server";
import type { WireLogprob } from "../src/api/wire";
import { appendParts, idsOf, partsOfTokens, pickedToken, tokensOfStep, withOutputs } from "../src/conversation/tokens";
import { token } from "./messages";

function logprob(text: string, id: number, bytes: number[] | null = null): WireLogprob {
  const choice = { token: text, id, logprob: -1, bytes };
  return { ...choice, top_logprobs: [choice, { token: "other", id: id + 100, logprob: -2, bytes: null }] };
}

function step(ids: number[], logprobs: WireLogprob[]): ReplyStep {
  return { content: "", parts: [], ids, logprobs, calls: [], usage: null, finishReason: null };
}

test("every sampled token is recorded with its alternatives", () => {
  const [first, second] = tokensOfStep(step([1, 2], [logprob("a", 1), logprob("b", 2)]));
  expect(first).toMatchObject({ ids: [1], text: "a", logprob: -1, origin: "sampled" });
  expect(second!.alternatives).toEqual([
    { id: 2, text: "b", logprob: -1 },
    { id: 102, text: "other", logprob: -2 },
  ]);
});

test("ids that the tool put in are one entry, right after the call, wherever the steps were cut", () => {
  const end = logprob("<|python_end|>", 9);
  const given = { ids: [20, 5, 6, 21], origin: "given", logprob: null };
  expect(tokensOfStep(step([9, 20, 5, 6, 21], [end]))).toMatchObject([{ ids: [9] }, given]);
  expect(tokensOfStep(step([20, 5, 6, 21], []))).toMatchObject([given]);
  expect(tokensOfStep(step([9, 20, 5, 6, 21, 5], [end, logprob("5", 5)]))).toMatchObject([{ ids: [9] }, {}, { ids: [5] }]);
  const twice = step([9, 20, 5, 21, 9, 20, 6, 21], [end, end]);
  expect(tokensOfStep(twice).map(({ origin }) => origin)).toEqual(["sampled", "given", "sampled", "given"]);
  expect(idsOf(tokensOfStep(twice))).toEqual(twice.ids);
});

test("what the tool put in says what it was", () => {
  const parts = [{ kind: "python", text: "1" }, { kind: "output", text: "one" }] as const;
  expect(withOutputs([token("x", 1), token("", 2, { origin: "given" })], parts)[1]!.text).toBe("one");
});

test("tokens become parts again, calls and characters over several tokens included", () => {
  const tokens = [
    token("Hi ", 1),
    token("\ufffd", 2, { bytes: [0xf0, 0x9f] }),
    token("\ufffd", 3, { bytes: [0x94, 0xa8] }),
    token("<|python_start|>", 4),
    token("1+", 5),
    token("1", 6),
    token("<|python_end|>", 7),
    token("2", 8, { ids: [8, 9, 10], origin: "given" }),
    token(" is two", 11),
    token("<|assistant_end|>", 12),
  ];
  expect(partsOfTokens(tokens)).toEqual([
    { kind: "text", text: "Hi 🔨" },
    { kind: "python", text: "1+1" },
    { kind: "output", text: "2" },
    { kind: "text", text: " is two" },
  ]);
  expect(partsOfTokens(tokens.slice(0, 2))).toEqual([{ kind: "text", text: "Hi " }]);
  expect(partsOfTokens(tokens.slice(0, 4)).at(-1)).toEqual({ kind: "python", text: "" });
});

test("parts grow by what is added; an empty one begins another", () => {
  const one = appendParts([], [{ kind: "text", text: "a" }, { kind: "text", text: "b" }]);
  expect(one).toEqual([{ kind: "text", text: "ab" }]);
  const calls = appendParts([{ kind: "python", text: "1" }], [{ kind: "python", text: "" }, { kind: "python", text: "2" }]);
  expect(calls.map(({ text }) => text)).toEqual(["1", "2"]);
});

test("a picked token keeps the alternatives of the place it is in", () => {
  const [sampled] = tokensOfStep(step([1], [logprob("a", 1)]));
  const picked = pickedToken(sampled!, sampled!.alternatives[1]!);
  expect(picked).toMatchObject({ ids: [101], text: "other", logprob: -2, origin: "picked", alternatives: sampled!.alternatives });
});
