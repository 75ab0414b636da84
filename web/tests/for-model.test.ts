import { expect, test } from "vitest";
import { messagesForModel, turnsToLeaveOut } from "../src/conversation/for-model";
import { reply, said } from "./messages";

test("calls of the tool go back as they were generated, plain replies as text", () => {
  const parts = [
    { kind: "python", text: "6*7" },
    { kind: "output", text: "42" },
    { kind: "text", text: "It is 42." },
  ] as const;
  const path = [said("a", null, 1, "6 times 7?"), reply("b", "a", 2, [...parts]), said("c", "b", 3, "And?"), reply("d", "c", 4)];
  expect(messagesForModel("Be brief.", path).map(({ wire }) => wire)).toEqual([
    { role: "system", content: "Be brief." },
    { role: "user", content: "6 times 7?" },
    { role: "assistant", content: "It is 42.", chatsmith: { parts } },
    { role: "user", content: "And?" },
    { role: "assistant", content: "d" },
  ]);
});

test("a question that was never answered is left out with its empty reply, so that turns alternate", () => {
  const path = [said("a", null, 1), reply("b", "a", 2, []), said("c", "b", 3)];
  expect(messagesForModel(" ", path).map(({ source }) => source)).toEqual(["c"]);
});

test("the oldest turns go, as few as will do, and never the system message or the last one", () => {
  const path = [said("a", null, 1), reply("b", "a", 2), said("c", "b", 3), reply("d", "c", 4), said("e", "d", 5)];
  const sent = messagesForModel("s", path);
  const sizes = [10, 10, 10, 10, 10, 10]; // and two marks around the whole
  expect(turnsToLeaveOut(sent, sizes, 62, 20, 82)).toBe(0);
  expect(turnsToLeaveOut(sent, sizes, 62, 20, 81)).toBe(2);
  expect(turnsToLeaveOut(sent, sizes, 62, 20, 62)).toBe(2);
  expect(turnsToLeaveOut(sent, sizes, 62, 20, 61)).toBe(4);
  expect(turnsToLeaveOut(sent, sizes, 62, 20, 41)).toBe(null);
});

test("calls are sent as calls where they were answered, else as the text that they were", () => {
  const called = { ...reply("b", "a", 2, []), calls: [{ id: "1", name: "add", arguments: '{"a": 1}' }] };
  const path = [said("a", null, 1), called, { ...said("c", "b", 3, "2"), results: [{ id: "1", text: "2" }] }, reply("d", "c", 4)];
  expect(messagesForModel(undefined, path).map(({ wire }) => wire)).toEqual([
    { role: "user", content: "a" },
    {
      role: "assistant",
      content: "",
      tool_calls: [{ id: "1", type: "function", function: { name: "add", arguments: '{"a": 1}' } }],
    },
    { role: "tool", tool_call_id: "1", content: "2" },
    { role: "assistant", content: "d" },
  ]);
  expect(messagesForModel(undefined, [path[0]!, called, said("e", "b", 5)])[1]!.wire).toEqual({
    role: "assistant",
    content: '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>',
  });
});
