import "fake-indexeddb/auto";
import { effect } from "@preact/signals";
import { expect, test } from "vitest";
import { Library } from "../src/state/library";
import { Database, type StoredConversation } from "../src/storage/database";
import { reply, said } from "./messages";

const nothing = { unsaved: () => undefined, gone: () => undefined, isWriting: () => false, stop: () => undefined };

function conversations(count: number): StoredConversation[] {
  return Array.from({ length: count }, (_, index) => {
    const id = `c${index}`;
    return {
      conversation: { id, title: id, createdAt: index, updatedAt: index, settings: {}, chosen: {} },
      messages: [
        { ...said(`${id}a`, null, 1), conversation: id },
        { ...reply(`${id}b`, `${id}a`, 2), conversation: id },
      ],
    };
  });
}

test("restoring many touches the list once, in the order of their dates, and says how far it is", async () => {
  const database = await Database.open("restore");
  const library = new Library(database, nothing);
  let numChanges = -1;
  effect(() => {
    void library.list.value;
    numChanges += 1;
  });
  const progress: number[] = [];
  await library.restore(conversations(230), (done) => progress.push(done));
  expect(numChanges).toBe(1);
  expect(progress).toEqual([0, 50, 100, 150, 200]);
  const order = Array.from({ length: 230 }, (_, index) => `c${229 - index}`);
  expect(library.list.value.map(({ id }) => id)).toEqual(order);
  await library.load();
  expect(library.list.value.map(({ id }) => id)).toEqual(order);
  expect((await library.stored("c7"))!.messages).toHaveLength(2);
});

test("without a database what is restored lasts as long as the page", async () => {
  const library = new Library(null, nothing);
  await library.restore(conversations(3));
  expect(await library.show("c1")).toBe(true);
});

test("pinned conversations stand first, and several are deleted and brought back together", async () => {
  const library = new Library(await Database.open("pins"), nothing);
  await library.restore(conversations(4));
  const order = () => library.list.value.map(({ id }) => id);
  await library.pin("c1", true);
  expect(order()).toEqual(["c1", "c3", "c2", "c0"]);
  const bringBack = await library.remove(["c1", "c3"]);
  expect(order()).toEqual(["c2", "c0"]);
  await bringBack();
  await library.load();
  expect(order()).toEqual(["c1", "c3", "c2", "c0"]);
  expect((await library.stored("c3"))!.messages).toHaveLength(2);
  await library.pin("c1", false);
  expect(order()).toEqual(["c3", "c2", "c1", "c0"]);
});
