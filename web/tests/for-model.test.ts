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
