import { expect, test } from "vitest";
import { biasesOf, wrongInBiases, wrongInSchema } from "../src/conversation/entries";

test("biases are read a line each, and what is none is named", () => {
  expect([...biasesOf("512 -100\n\n 87: 5.5\n007=+1")]).toEqual([
    ["512", -100],
    ["87", 5.5],
    ["7", 1],
  ]);
  expect(wrongInBiases("512 -100\n")).toBeNull();
  expect(wrongInBiases("512 -101")).toContain("512 -101");
  expect(wrongInBiases("the 5")).toContain("the 5");
});

test("a schema is an object", () => {
  expect(wrongInSchema("{}")).toBeNull();
  expect(wrongInSchema('{"type": "object"')).toBe("This is not JSON yet.");
  expect(wrongInSchema("[1]")).toContain("object");
});
