import { expect, test } from "vitest";
import { isContextFull, isUnfinished, sawOlderTurns } from "../src/conversation/ending";
import type { Figures } from "../src/conversation/message";
import { reply, said } from "./messages";

function figures(contextUsed: number, contextLength: number | null): Figures {
  return { replyTokens: 1, contextUsed, cachedTokens: 0, firstToken: null, rate: null, contextLength };
}

test("a reply that ended by itself, or never began, is not to be continued", () => {
  const whole = reply("b", "a", 2);
  expect(isUnfinished(whole)).toBe(false);
  expect((["cut", "stopped", "lost"] as const).map((state) => isUnfinished({ ...whole, state }))).toEqual([true, true, true]);
  expect(isUnfinished({ ...whole, state: "cut", parts: [] })).toBe(false);
});

test("the context is full at its last token, and no longer once a model that sees more is chosen", () => {
  const full = { ...reply("b", "a", 2), figures: figures(256, 256) };
  expect(isContextFull(full, 256)).toBe(true);
  expect(isContextFull(full, 257)).toBe(false);
  expect(isContextFull(full, null)).toBe(true); // the server is not there to ask
  expect(isContextFull({ ...full, figures: figures(256, null) }, null)).toBe(false);
  expect(isContextFull({ ...full, figures: null }, 256)).toBe(false);
});

test("older turns can make room only where the model saw any", () => {
  const path = [said("a", null, 1), reply("b", "a", 2), said("c", "b", 3)];
  const last = reply("d", "c", 4);
  expect(sawOlderTurns(last, path)).toBe(true);
  expect(sawOlderTurns({ ...last, seenFrom: "c" }, path)).toBe(false);
  expect(sawOlderTurns(reply("b", "a", 2), path.slice(0, 1))).toBe(false);
  const unanswered = [said("a", null, 1), reply("b", "a", 2, []), said("c", "b", 3)];
  expect(sawOlderTurns(last, unanswered)).toBe(false); // they were never sent
});
