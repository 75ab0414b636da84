/**
 * A conversation as a Markdown file to read and share, and back. It holds the shown branch, as text: other
 * branches, tokens and sampling settings travel in JSON only.
 *
 * Comments, which no Markdown reader shows, mark where each message begins, so that the file can be read back
 * whatever headings a reply has of its own.
 */

import { shownPath } from "../conversation/branches";
import { plainTitle } from "../conversation/direction";
import { newId, newTime } from "../conversation/identity";
import { isEmpty, type Conversation, type Message, type Part, type PartKind } from "../conversation/message";
import { t } from "../messages/language";
import type { StoredConversation } from "../storage/database";
import { ImportError } from "./json";

const MARK = /^<!-- (system|user|assistant|text|python|output) -->$/;
const TITLES = { system: "## System", user: "## You", assistant: "## Reply" } as const;

export function toMarkdown({ conversation, messages }: StoredConversation): string {
  const path = shownPath(new Map(messages.map((message) => [message.id, message])), conversation.chosen);
  const pieces = [`# ${conversation.title}`];
  if (conversation.settings.system) {
    pieces.push(section("system", conversation.settings.system));
  }
  for (const message of path) {
    if (message.role === "user") {
      pieces.push(section("user", message.text));
    } else if (!isEmpty(message)) {
      const hasCalls = message.parts.some((part) => part.kind !== "text");
      const text = hasCalls ? message.parts.map(partText).join("\n\n") : escaped(message.parts[0]?.text ?? "");
      pieces.push(`<!-- assistant -->\n${TITLES.assistant}\n\n${text}`);
    }
  }
  return `${pieces.join("\n\n")}\n`;
}

function section(role: "system" | "user", text: string): string {
  return `<!-- ${role} -->\n${TITLES[role]}\n\n${escaped(text)}`;
}

function partText({ kind, text }: Part): string {
  return kind === "text" ? `<!-- text -->\n${escaped(text)}` : `<!-- ${kind} -->\n${escaped(quoted(text))}`;
}

function quoted(text: string): string {
  return text
    .split("\n")
    .map((line) => `    ${line}`)
    .join("\n");
}

function unquoted(text: string): string {
  return text
    .split("\n")
    .map((line) => line.replace(/^ {4}/, ""))
    .join("\n");
}

/** A line of the text that looks like one of our marks gets a backslash more, which reading takes off again. */
function escaped(text: string): string {
  return text.replace(/^(\\*)(?=<!-- (?:system|user|assistant|text|python|output) -->$)/gm, "$1\\");
}

function unescaped(text: string): string {
  return text.replace(/^\\(\\*)(?=<!-- (?:system|user|assistant|text|python|output) -->$)/gm, "$1");
}

/** The conversation of a file made by `toMarkdown`. Throws ImportError for any other. */
export function fromMarkdown(text: string): StoredConversation {
  const [head, ...sections] = cut(text.replace(/\r\n/g, "\n"));
  const messages: Message[] = [];
  const now = newTime();
  const conversation: Conversation = {
    id: newId(),
    title: plainTitle(/^# (.+)$/m.exec(head!.text)?.[1] ?? t.files.title),
    createdAt: now,
    updatedAt: now,
    settings: {},
    chosen: {},
  };
  for (const { mark, text } of sections) {
    const last = messages.at(-1);
    if (mark === "system") {
      conversation.settings.system = body(text);
    } else if (mark === "user") {
      messages.push({ ...beginning(conversation, last), role: "user", text: body(text) });
    } else if (last === undefined) {
      throw new ImportError(t.files.replyToNothing);
    } else if (mark === "assistant") {
      messages.push(replyOf(conversation, last, body(text)));
    } else if (last.role === "assistant") {
      last.parts.push({ kind: mark as PartKind, text: mark === "text" ? unescaped(trimmed(text)) : unquoted(trimmed(text)) });
    }
  }
  if (messages.length === 0) {
    throw new ImportError(t.files.notMarkdown);
  }
  return { conversation, messages };
}

function beginning(conversation: Conversation, last: Message | undefined) {
  return { id: newId(), conversation: conversation.id, parent: last?.id ?? null, createdAt: newTime() };
}

function replyOf(conversation: Conversation, last: Message, text: string): Message {
  return {
    ...beginning(conversation, last),
    role: "assistant",
    parent: last.id,
    parts: text === "" ? [] : [{ kind: "text", text }],
    tokens: [],
    state: "done",
    model: "",
    figures: null,
    problem: null,
    seenFrom: null,
  };
}

function cut(text: string): { mark: string; text: string }[] {
  const sections = [{ mark: "", text: "" }];
  for (const line of text.split("\n")) {
    const mark = MARK.exec(line)?.[1];
    if (mark) {
      sections.push({ mark, text: "" });
    } else {
      sections.at(-1)!.text += `${line}\n`;
    }
  }
  return sections;
}

/** A section without the heading that a reader sees. */
function body(text: string): string {
  return unescaped(trimmed(text.replace(/^## (System|You|Reply)\n/, "")));
}

/** Without the blank lines that set sections apart. */
function trimmed(text: string): string {
  return text.replace(/^\n+|\n+$/g, "");
}
