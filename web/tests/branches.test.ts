import { expect, test } from "vitest";
import { childrenOf, choiceOf, pathTo, shownPath, withDescendants } from "../src/conversation/branches";
import { reply, said } from "./messages";

/** a ┬ b ─ c ─ d        c2 is a later reply to the same message as … b2 ─ e branches at a */
const messages = new Map(
  [
    said("a", null, 1),
    reply("b", "a", 2),
    said("c", "b", 3),
    reply("d", "c", 4),
    reply("b2", "a", 5),
    said("e", "b2", 6),
    said("a2", null, 7),
  ].map((message) => [message.id, message]),
);
const ids = (path: { id: string }[]) => path.map(({ id }) => id);

test("without a choice the newest branch is shown", () => {
  expect(ids(shownPath(messages, {}))).toEqual(["a2"]);
  expect(ids(shownPath(messages, { "": "a" }))).toEqual(["a", "b2", "e"]);
});

test("a choice leads into its branch, and is remembered below it", () => {
  expect(ids(shownPath(messages, { "": "a", a: "b" }))).toEqual(["a", "b", "c", "d"]);
  expect(choiceOf(messages.get("b")!)).toEqual({ a: "b" });
  expect(choiceOf(messages.get("a")!)).toEqual({ "": "a" });
});

test("a choice that was deleted falls back to what there is", () => {
  const left = new Map([...messages].filter(([id]) => id !== "b2" && id !== "e"));
  expect(ids(shownPath(left, { "": "a", a: "b2" }))).toEqual(["a", "b", "c", "d"]);
});

test("branches are in the order in which they were made", () => {
  expect(ids(childrenOf(messages, "a"))).toEqual(["b", "b2"]);
  expect(ids(childrenOf(messages, null))).toEqual(["a", "a2"]);
});

test("the path to a message, and what follows it", () => {
  expect(ids(pathTo(messages, "d"))).toEqual(["a", "b", "c", "d"]);
  expect(withDescendants(messages, "a").sort()).toEqual(["a", "b", "b2", "c", "d", "e"]);
});
