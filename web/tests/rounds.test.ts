import { expect, test } from "vitest";
import { roundOf } from "../src/conversation/branches";
import { Talk } from "../src/state/talk";
import { Models } from "../src/state/models";
import type { Server } from "../src/api/server";
import { reply, said } from "./messages";

const messages = [
  said("a", null, 1),
  reply("b", "a", 2),
  { ...reply("c1", "a", 3), round: "c" },
  { ...reply("c2", "a", 4), round: "c" },
  { ...reply("d1", "a", 5), round: "d" },
  { ...reply("d2", "a", 6), round: "d" },
];

test("replies that were made at once belong together", () => {
  const all = new Map(messages.map((message) => [message.id, message]));
  expect(roundOf(all, "c2")).toEqual(["c1", "c2"]);
  expect(roundOf(all, "b")).toEqual(["b"]);
  expect(roundOf(all, "a")).toEqual(["a"]);
});

test("a round is one version among others, whichever of its replies is gone on from", () => {
  const conversation = { id: "talk", title: "", createdAt: 1, updatedAt: 1, settings: {}, chosen: {} };
  const listener = { changed: () => undefined, saved: () => undefined, unsaved: () => undefined, gone: () => undefined };
  const talk = new Talk({ conversation, messages }, null, listener, true);
  expect(talk.branchesAt("b")).toEqual(["b", "c1", "d1"]);
  expect(talk.branchesAt("c2")).toEqual(["b", "c2", "d1"]);
  expect(talk.path.value).toEqual(["a", "d2"]);
  talk.choose("c1");
  expect(talk.path.value).toEqual(["a", "c1"]);
  talk.remove("c1");
  expect(talk.roundOf("c2")).toEqual(["c2"]);
});

test("a message goes to the conversation's model first, and as often to each as replies are wanted", () => {
  const models = new Models({} as Server);
  models.all.value = [{ id: "chat" }, { id: "base" }, { id: "rl" }];
  expect(models.answering({})).toEqual(["chat"]);
  expect(models.answering({ model: "rl", beside: ["rl", "base", "gone"], replies: 2 })).toEqual(["rl", "rl", "base", "base"]);
});
