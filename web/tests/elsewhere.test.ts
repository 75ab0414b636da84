import { describe, expect, test } from "vitest";
import { shownPath } from "../src/conversation/branches";
import { plainText } from "../src/conversation/message";
import { fromJson } from "../src/transfer/json";

/** What is shown of each conversation: its title and who said what. */
function read(value: unknown) {
  return fromJson(typeof value === "string" ? value : JSON.stringify(value)).map(({ conversation, messages }) => ({
    title: conversation.title,
    system: conversation.settings.system,
    createdAt: conversation.createdAt,
    said: shownPath(new Map(messages.map((each) => [each.id, each])), conversation.chosen).map((each) => `${each.role}: ${plainText(each)}`),
    total: messages.length,
  }));
}

const node = (id: string, parent: string | null, role: string | null, text: string, more: object = {}) => [
  id,
  {
    id,
    parent,
    children: [],
    message:
      role === null
        ? null
        : { author: { role }, content: { content_type: "text", parts: [text] }, create_time: 1_700_000_000.5, ...more },
  },
];

describe("ChatGPT", () => {
  const chat = {
    title: "Capitals",
    create_time: 1_700_000_000.25,
    update_time: 1_700_000_100,
    current_node: "r2",
    mapping: Object.fromEntries([
      // Not in order, as in the files.
      node("r2", "tool", "assistant", "It is Lima.", { metadata: { model_slug: "gpt-4" } }),
      node("root", null, null, ""),
      node("s", "root", "system", "", { metadata: { is_visually_hidden_from_conversation: true } }),
      node("q", "s", "user", "Capital of Peru?"),
      node("r1", "q", "assistant", "Cusco."),
      node("call", "q", "assistant", "Let me look."),
      node("tool", "call", "tool", "Lima"),
    ]),
  };

  test("is read along the branch that was shown, replies around a tool as one", () => {
    expect(read([chat])).toEqual([
      {
        title: "Capitals",
        system: undefined,
        createdAt: 1_700_000_000_250,
        said: ["user: Capital of Peru?", "assistant: Let me look.\n\nIt is Lima."],
        total: 3,
      },
    ]);
  });

  test("is read as far as it can be", () => {
    const broken = { title: "x", mapping: { a: { id: "a", parent: "b", message: null }, b: { id: "b", parent: "a", message: 3 }, c: null } };
    expect(read([chat, broken])).toHaveLength(1);
    expect(() => read([broken])).toThrow("holds no message");
  });
});

test("Open WebUI", () => {
  const messages = {
    u: { id: "u", parentId: null, childrenIds: ["a"], role: "user", content: "Hi", timestamp: 1_700_000_000 },
    a: { id: "a", parentId: "u", childrenIds: [], role: "assistant", content: "Hello!", model: "tiny", timestamp: 1_700_000_001 },
    a2: { id: "a2", parentId: "u", childrenIds: [], role: "assistant", content: "Hey!", timestamp: 1_700_000_002 },
  };
  const entry = { id: "1", title: "Greeting", chat: { history: { messages, currentId: "a" }, messages: [] }, created_at: 1_700_000_000 };
  expect(read([entry])).toEqual([
    { title: "Greeting", system: undefined, createdAt: 1_700_000_000_000, said: ["user: Hi", "assistant: Hello!"], total: 3 },
  ]);
});

test("llama.cpp", () => {
  const at = 1_700_000_000_000;
  const messages = [
    { id: "0", type: "root", role: "system", content: "", parent: null, timestamp: at },
    { id: "1", type: "text", role: "system", content: "Be kind.", parent: "0", timestamp: at },
    { id: "2", type: "text", role: "user", content: "Hi", parent: "1", timestamp: at + 1 },
    { id: "3", type: "text", role: "assistant", content: "Hello!", parent: "2", timestamp: at + 2 },
  ];
  const one = { conv: { id: "c", name: "Greeting", lastModified: at, currNode: "3" }, messages };
  const wanted = { title: "Greeting", system: "Be kind.", createdAt: at, said: ["user: Hi", "assistant: Hello!"], total: 2 };
  expect(read(one)).toEqual([wanted]);
  expect(read([one, one])).toEqual([wanted, wanted]);
});

test("messages as they are sent to the API, one conversation or many, also as JSON lines", () => {
  const messages = [
    { role: "system", content: "Be kind." },
    { role: "user", content: [{ type: "text", text: "Hi" }] },
    { role: "assistant", content: "Hello!" },
  ];
  const wanted = { title: "Hi", system: "Be kind.", said: ["user: Hi", "assistant: Hello!"], total: 2 };
  expect(read(messages)).toMatchObject([wanted]);
  expect(read({ messages })).toMatchObject([wanted]);
  expect(read(`${JSON.stringify({ messages })}\n${JSON.stringify({ messages })}\n`)).toMatchObject([wanted, wanted]);
});

test("what is none of these is refused in words", () => {
  for (const value of [{}, [1, 2], { messages: "no" }, [{ title: "x" }], "null"]) {
    expect(() => read(value)).toThrow("no conversations of a form that is known");
  }
  expect(() => read([])).toThrow("holds no conversations");
  expect(() => read("{")).toThrow("not valid JSON");
});
