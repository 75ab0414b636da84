import "fake-indexeddb/auto";
import { expect, test } from "vitest";
import { Database } from "../src/storage/database";
import { reply, said } from "./messages";

const conversation = (id: string, updatedAt: number) => ({
  id,
  title: `Title of ${id}`,
  createdAt: 1,
  updatedAt,
  settings: {},
  chosen: {},
});
const belonging = <T extends object>(message: T, to: string): T => ({ ...message, conversation: to });

test("conversations come back whole", async () => {
  const database = await Database.open("whole");
  const messages = [belonging(said("a", null, 1), "x"), belonging(reply("b", "a", 2), "x")];
  await database.save({ conversation: conversation("x", 1), messages });
  await database.saveConversation(conversation("y", 2));
  expect((await database.conversations()).map(({ id }) => id).sort()).toEqual(["x", "y"]);
  expect(await database.load("x")).toEqual({ conversation: conversation("x", 1), messages });
  expect(await database.load("z")).toBe(null);
});

test("deleting takes the messages along, and those of no other conversation", async () => {
  const database = await Database.open("delete");
  await database.save({ conversation: conversation("x", 1), messages: [belonging(said("a", null, 1), "x")] });
  await database.save({ conversation: conversation("y", 1), messages: [belonging(said("b", null, 1), "y")] });
  await database.delete("x");
  expect(await database.messages("x")).toEqual([]);
  expect(await database.messages("y")).toHaveLength(1);
});

test("search looks into titles and every message, in any case", async () => {
  const database = await Database.open("search");
  await database.save({ conversation: conversation("x", 1), messages: [belonging(said("a", null, 1, "About Ünicorns"), "x")] });
  await database.save({ conversation: conversation("y", 1), messages: [belonging(reply("b", "a", 1), "y")] });
  expect(await database.search("ünicorn")).toEqual(new Set(["x"]));
  expect(await database.search("TITLE OF Y")).toEqual(new Set(["y"]));
  expect(await database.search("nowhere")).toEqual(new Set());
});
