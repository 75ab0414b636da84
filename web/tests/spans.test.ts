import { expect, test } from "vitest";
import { kindsOf, spansOf } from "../src/markdown/spans";

test("each token knows what Markdown it is in", () => {
  const tokens = ["# ", "Sums", "\n\n", "It", " is ", "**", "95", "**", ", as ", "`", "a", "+", "b", "`", " in *", "italics", "*"];
  const kinds = kindsOf(tokens);
  expect(kinds[1]).toBe("is-heading is-h1");
  expect(kinds[3]).toBe("");
  expect(kinds.slice(5, 8)).toEqual(["is-strong", "is-strong", "is-strong"]);
  expect(kinds[8]).toBe("");
  expect(kinds.slice(9, 14)).toEqual(Array(5).fill("is-code"));
  expect(kinds[15]).toBe("is-em");
});

test("what is within something is both", () => {
  const spans = spansOf("> **a *b* c**\n\n```python\nx = 1\n```\n\n- one\n- **two**");
  expect(spans.map(({ kinds }) => kinds)).toEqual(["is-quote", "is-quote is-strong", "is-quote is-strong is-em", "is-code", "is-strong"]);
  expect(spansOf("")).toEqual([]);
  expect(spansOf(`${">".repeat(2000)} x`).length).toBeLessThan(100);
});
