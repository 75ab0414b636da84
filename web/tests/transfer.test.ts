import { describe, expect, test } from "vitest";
import { shownPath } from "../src/conversation/branches";
import { newTime } from "../src/conversation/identity";
import type { Conversation, Message } from "../src/conversation/message";
import type { StoredConversation } from "../src/storage/database";
import { fromJson, ImportError, toJson } from "../src/transfer/json";
import { fromMarkdown, toMarkdown } from "../src/transfer/markdown";
import { reply, said, token } from "./messages";

const conversation: Conversation = {
  id: "talk",
  title: "Sums & more",
  createdAt: 1,
  updatedAt: 2,
  settings: { system: "Be brief.", temperature: 0.5, stop: ["END"], keepWhole: true },
  chosen: { "": "a", a: "b" },
};
const messages: Message[] = [
  said("a", null, 1, "6 times 7?\n\n<!-- user -->\n\\<!-- assistant -->"),
  reply("b", "a", 2, [
    { kind: "text", text: "Let me see." },
    { kind: "python", text: "6*7\n  # indented" },
    { kind: "output", text: "42" },
    { kind: "text", text: "## You\n\nIt is 42." },
  ]),
  said("c", "b", 3, "Thanks."),
  { ...reply("d", "c", 4), tokens: [token("d", 4, { alternatives: [{ id: 4, text: "d", logprob: -0.5 }] })] },
  reply("b2", "a", 5),
];
const stored: StoredConversation = { conversation, messages };

const gist = ({ conversation, messages }: StoredConversation) =>
  shownPath(new Map(messages.map((message) => [message.id, message])), conversation.chosen).map((message) =>
    message.role === "user" ? message.text : message.parts,
  );

describe("JSON", () => {
  test("brings everything back, under new ids", () => {
    const [back] = fromJson(toJson([stored]));
    expect(gist(back!)).toEqual(gist(stored));
    expect(back!.conversation.settings).toEqual(conversation.settings);
    expect(back!.conversation.title).toBe(conversation.title);
    expect(back!.messages).toHaveLength(messages.length);
    expect(back!.messages.find(({ createdAt }) => createdAt === 4)).toMatchObject({ tokens: (messages[3] as { tokens: unknown }).tokens });
    const old = new Set(["talk", ...messages.map(({ id }) => id)]);
    expect([back!.conversation.id, ...back!.messages.map(({ id }) => id)].some((id) => old.has(id))).toBe(false);
  });

  test.each([
    ["not json at all", "not valid JSON"],
    ["[1, 2]", "no conversations of a form that is known"],
    ['{"format": "other", "conversations": []}', "no conversations of a form that is known"],
    ['{"format": "chatsmith-conversations", "version": 99, "conversations": []}', "newer chatsmith"],
    ['{"format": "chatsmith-conversations", "version": 1, "conversations": [7]}', "no conversation"],
  ])("refuses %s", (text, reason) => {
    expect(() => fromJson(text)).toThrow(ImportError);
    expect(() => fromJson(text)).toThrow(reason);
  });

  test("keeps the dates, and puts what a fast clock wrote before now", () => {
    const [back] = fromJson(toJson([stored]));
    expect(back!.conversation).toMatchObject({ createdAt: 1, updatedAt: 2 });
    const future = Date.now() + 1e9;
    const ahead = { conversation: { ...conversation, updatedAt: future }, messages: [said("a", null, future), reply("b", "a", future + 5)] };
    const [moved] = fromJson(toJson([ahead]));
    expect(moved!.conversation.updatedAt).toBeLessThan(future);
    expect(moved!.messages[1]!.createdAt - moved!.messages[0]!.createdAt).toBe(5);
    expect(moved!.messages[1]!.createdAt).toBeLessThanOrEqual(newTime());
  });

  test("leaves out what nothing leads to, and says so", () => {
    const told: string[] = [];
    const takeIn = (...conversations: unknown[]) =>
      fromJson(toJson(conversations as StoredConversation[]), (what) => told.push(what));
    const missing = { conversation, messages: messages.map((each) => (each.id === "c" ? { ...each, parent: "elsewhere" } : each)) };
    expect(takeIn(missing)[0]!.messages).toHaveLength(3);
    expect(told).toEqual(["2 messages of “Sums & more” that nothing leads to"]);
    const cycle = { conversation, messages: [said("a", "b", 1), reply("b", "a", 2)] };
    const own = { conversation, messages: [said("a", "a", 1)] };
    const none = { conversation, messages: [] };
    for (const empty of [cycle, own, none]) {
      expect(() => takeIn(empty)).toThrow("holds no message to begin with");
    }
    expect(takeIn(cycle, stored, 7), "the rest is taken").toHaveLength(1);
    expect(takeIn({ conversation, messages: [said("a", null, 1), said("a", "a", 2), reply("b", "a", 3)] })[0]!.messages).toHaveLength(2);
    expect(() => takeIn()).toThrow("The file holds no conversations.");
    expect(takeIn({ ...stored, conversation: { ...conversation, title: "" } })[0]!.conversation.title).toBe("Untitled");
  });

  test("drops what has not the right shape", () => {
    const told: string[] = [];
    const odd = structuredClone(stored) as unknown as { conversation: Record<string, unknown>; messages: Record<string, unknown>[] };
    odd.messages[3]!.tokens = [{ text: 7 }];
    odd.messages[3]!.figures = "many";
    odd.conversation.settings = { temperature: "hot", seed: 3 };
    const [back] = fromJson(toJson([odd as unknown as StoredConversation]), (what) => told.push(what));
    expect(back!.messages.find((message) => message.createdAt === 4)).toMatchObject({ tokens: [], figures: null });
    expect(back!.conversation.settings).toEqual({ seed: 3 });
    expect(told).toEqual(["the tokens of a reply in “Sums & more”, which cannot be read"]);
    for (const bytes of ["abc", 7, [256], [-1], [0.5], {}]) {
      odd.messages[3]!.tokens = [token("d", 4, { bytes: bytes as number[] })];
      expect(fromJson(toJson([odd as unknown as StoredConversation]))[0]!.messages.every((each) => each.role === "user" || each.tokens.length === 0)).toBe(true);
    }
  });
});

describe("Markdown", () => {
  test("brings the shown branch back, whatever the texts contain", () => {
    const back = fromMarkdown(toMarkdown(stored));
    expect(gist(back)).toEqual(gist(stored));
    expect(back.conversation.title).toBe(conversation.title);
    expect(back.conversation.settings).toEqual({ system: "Be brief." });
  });

  test("reads as a page", () => {
    expect(toMarkdown({ conversation: { ...conversation, settings: {} }, messages: [said("a", null, 1, "Hi"), reply("b", "a", 2)] })).toBe(
      "# Sums & more\n\n<!-- user -->\n## You\n\nHi\n\n<!-- assistant -->\n## Reply\n\nb\n",
    );
  });

  test("refuses another page", () => {
    expect(() => fromMarkdown("# Some README\n\nText.")).toThrow("not exported by chatsmith");
    expect(() => fromMarkdown("<!-- assistant -->\nHi")).toThrow(ImportError);
  });
});
