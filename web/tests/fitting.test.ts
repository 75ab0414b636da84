import { expect, test } from "vitest";
import type { Server } from "../src/api/server";
import { fit } from "../src/state/fitting";
import { reply, said } from "./messages";

const CONTEXT = 100;
const path = [said("a", null, 1), reply("b", "a", 2), said("c", "b", 3)];

/** What of the path is sent ahead of `prefix` tokens of a reply, where the server counts ten tokens a message. */
async function seenFrom(prefix: number, messages = path) {
  const counted = { count: 10 * messages.length, messages: messages.map((_, at) => ({ start: 10 * at, end: 10 * at + 10 })) };
  const server = { tokenize: async () => counted } as unknown as Server;
  const fitted = await fit(server, "tiny", messages, {}, CONTEXT, prefix, true, new AbortController().signal);
  return fitted.seenFrom;
}

test("a reply goes on beside all turns while its share of the context is free, then without the oldest", async () => {
  expect(await seenFrom(CONTEXT - 30 - 25)).toBe(null);
  expect(await seenFrom(CONTEXT - 30 - 24)).toBe("c");
});

test("a reply goes on to the last token of the context, and is refused only there", async () => {
  const question = path.slice(2);
  expect(await seenFrom(CONTEXT - 10 - 1, question)).toBe(null);
  await expect(seenFrom(CONTEXT - 10, question)).rejects.toThrow("this reply cannot grow any longer");
});
