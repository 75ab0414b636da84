import { expect, test } from "vitest";
import { biasesOf, toolsOf, wrongInBiases, wrongInSchema, wrongInTools } from "../src/conversation/entries";

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

test("tools may stand there as functions alone, and have names", () => {
  const tool = { type: "function", function: { name: "add" } };
  expect(toolsOf('[{"name": "add"}]')).toEqual([tool]);
  expect(toolsOf('{"name": "add"}')).toEqual([tool]);
  expect(toolsOf(JSON.stringify([tool]))).toEqual([tool]);
  expect(wrongInTools('[{"name": "add"}]')).toBeNull();
  for (const wrong of ['[{"name": "a b"}]', "[{}]", "[1]", "{", '"x"', "[null]"]) {
    expect(wrongInTools(wrong)).not.toBeNull();
  }
});
