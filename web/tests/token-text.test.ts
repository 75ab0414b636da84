import { expect, test } from "vitest";
import { spokenText } from "../src/components/token-text";

test.each([
  [",", "comma"],
  [" the", "the"],
  ["  ", "space, space"],
  ["\n", "line break"],
  ["...", "period, period, period"],
  [" don't", "don't"],
  ["<|assistant_end|>", "mark assistant end"],
  ["→", "→"],
])("%j can be spoken", (text, spoken) => {
  expect(spokenText(text)).toBe(spoken);
});

test("bytes of a character are named", () => {
  expect(spokenText("\ufffd", [0xc3])).toBe("part of a character, byte C3");
});
