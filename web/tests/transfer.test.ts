import { describe, expect, test } from "vitest";
import { shownPath } from "../src/conversation/branches";
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
    expect(back!.messages[3]).toMatchObject({ tokens: (messages[3] as { tokens: unknown }).tokens });
    const old = new Set(["talk", ...messages.map(({ id }) => id)]);
    expect([back!.conversation.id, ...back!.messages.map(({ id }) => id)].some((id) => old.has(id))).toBe(false);
  });

  test.each([
    ["not json at all", "not valid JSON"],
    ["[1, 2]", "not a list of conversations"],
    ['{"format": "other", "conversations": []}', "not exported by chatsmith"],
    ['{"format": "chatsmith-conversations", "version": 99, "conversations": []}', "newer chatsmith"],
    ['{"format": "chatsmith-conversations", "version": 1, "conversations": [7]}', "no conversation"],
  ])("refuses %s", (text, reason) => {
    expect(() => fromJson(text)).toThrow(ImportError);
    expect(() => fromJson(text)).toThrow(reason);
  });

  test("refuses a message that follows none, and drops what has not the right shape", () => {
    const broken = structuredClone(stored) as unknown as { conversation: object; messages: Record<string, unknown>[] };
    broken.messages[2]!.parent = "elsewhere";
    expect(() => fromJson(toJson([broken as unknown as StoredConversation]))).toThrow("follows one that is missing");
    const odd = structuredClone(stored) as unknown as { conversation: Record<string, unknown>; messages: Record<string, unknown>[] };
    odd.messages[3]!.tokens = [{ text: 7 }];
    odd.messages[3]!.figures = "many";
    odd.conversation.settings = { temperature: "hot", seed: 3 };
    const [back] = fromJson(toJson([odd as unknown as StoredConversation]));
    expect(back!.messages[3]).toMatchObject({ tokens: [], figures: null });
    expect(back!.conversation.settings).toEqual({ seed: 3 });
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
