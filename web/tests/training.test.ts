import { describe, expect, test } from "vitest";
import type { Message, Reply, Settings } from "../src/conversation/message";
import { ratedOf, toJsonLines } from "../src/transfer/training";
import { reply, said } from "./messages";

function stored(messages: Message[], settings: Settings = {}) {
  return { conversation: { id: "talk", title: "Sums", createdAt: 1, updatedAt: 2, settings, chosen: {} }, messages };
}

function rated(id: string, parent: string, createdAt: number, text: string, rating?: 1 | -1): Reply {
  return { ...reply(id, parent, createdAt, [{ kind: "text", text }]), ...(rating && { rating }) };
}

describe("rated replies", () => {
  test("are learned each once, in their conversation, and the others only read", () => {
    const { conversations } = ratedOf([
      stored(
        [
          said("a", null, 1, "1 + 1?"),
          rated("b", "a", 2, "2", 1),
          rated("b2", "a", 3, "3", -1),
          said("c", "b", 4, "Why?"),
          rated("d", "c", 5, "Because."),
          said("e", "d", 6, "I see."),
          rated("f", "e", 7, "Good.", 1),
          said("g", "b", 8, "And 2 + 2?"),
          rated("h", "g", 9, "4", 1),
        ],
        { system: "Be brief." },
      ),
    ]);
    expect(conversations).toEqual([
      {
        messages: [
          { role: "system", content: "Be brief." },
          { role: "user", content: "1 + 1?" },
          { role: "assistant", content: "2" },
          { role: "user", content: "Why?" },
          { role: "assistant", content: "Because.", weight: 0 },
          { role: "user", content: "I see." },
          { role: "assistant", content: "Good." },
        ],
      },
      {
        messages: [
          { role: "system", content: "Be brief." },
          { role: "user", content: "1 + 1?" },
          { role: "assistant", content: "2", weight: 0 },
          { role: "user", content: "And 2 + 2?" },
          { role: "assistant", content: "4" },
        ],
      },
    ]);
  });

  test("keep the calls of the calculator", () => {
    const called: Reply = {
      ...reply("b", "a", 2, [
        { kind: "python", text: "6*7" },
        { kind: "output", text: "42" },
        { kind: "text", text: "It is 42." },
      ]),
      rating: 1,
    };
    const { conversations, problems } = ratedOf([stored([said("a", null, 1, "6 times 7?"), called])]);
    expect(conversations[0]!.messages).toEqual([
      { role: "user", content: "6 times 7?" },
      {
        role: "assistant",
        content: [
          { type: "python", text: "6*7" },
          { type: "output", text: "42" },
          { type: "text", text: "It is 42." },
        ],
      },
    ]);
    expect(problems).toEqual([{ messages: [{ role: "user", content: "6 times 7?" }], answer: 42 }]);
  });

  test("keep the calls of other tools as the model wrote them, with the tools", () => {
    const called: Reply = { ...reply("b", "a", 2, []), calls: [{ id: "1", name: "add", arguments: '{"a": 1}' }] };
    const results = { ...said("c", "b", 3, "2"), results: [{ id: "1", text: "2" }] };
    const messages = [said("a", null, 1), called, results, rated("d", "c", 4, "Two.", 1)];
    expect(ratedOf([stored(messages, { tools: '[{"name": "add"}]' })]).conversations).toEqual([
      {
        messages: [
          { role: "user", content: "a" },
          { role: "assistant", content: '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', weight: 0 },
          { role: "tool", content: "2" },
          { role: "assistant", content: "Two." },
        ],
        tools: [{ type: "function", function: { name: "add" } }],
      },
    ]);
  });

  test("are problems where there is something to check, each once", () => {
    const answers = (text: string) => ratedOf([stored([said("a", null, 1), rated("b", "a", 2, text, 1)])]).problems.map(({ answer }) => answer);
    expect(answers("37 plus 58 is 1,095.")).toEqual([1095]);
    expect(answers("Minus: -3")).toEqual([-3]);
    expect(answers("Lima")).toEqual(["Lima"]);
    expect(answers("It is 3.5 metres long.")).toEqual([]);
    expect(answers("x".repeat(200))).toEqual([]);
    const twice = [said("a", null, 1), rated("b", "a", 2, "5", 1), rated("c", "a", 3, "5", 1)];
    expect(ratedOf([stored(twice)]).problems).toHaveLength(1);
  });

  test("are pairs where one is good and one bad", () => {
    const messages = [said("a", null, 1), rated("b", "a", 2, "yes", 1), rated("c", "a", 3, "no", -1), rated("d", "a", 4, "hm")];
    expect(ratedOf([stored(messages)]).pairs).toEqual([
      {
        prompt: [{ role: "user", content: "a" }],
        chosen: [{ role: "assistant", content: "yes" }],
        rejected: [{ role: "assistant", content: "no" }],
      },
    ]);
  });

  test("leave out what is no conversation", () => {
    const raw: Reply = { ...rated("b", "a", 2, "upon a time", 1), raw: true };
    expect(ratedOf([stored([said("a", null, 1), raw])])).toEqual({ conversations: [], problems: [], pairs: [] });
  });
});

test("JSON lines hold a record a line, whatever line ends are in it", () => {
  expect(toJsonLines([{ a: "1\n2" }, { b: 3 }])).toBe('{"a":"1\\n2"}\n{"b":3}\n');
});
